"""The services; they meet on the queue and in Postgres, never by import."""
