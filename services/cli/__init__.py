"""The `heliu` command: a client of the gateway, and the operator verbs over deploy.local."""
