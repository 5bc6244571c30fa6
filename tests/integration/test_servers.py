"""The servers that tests run on: started from the wheels, hurt, and started again."""

from __future__ import annotations

import psycopg
import redis
from kombu import Connection

from deploy import embedded, processes
from shared.queue import broker_url
from tests.servers import postgres_server, valkey_server


def test_postgres_takes_utf8_and_survives_an_immediate_stop_and_kill_9() -> None:
    with postgres_server() as postgres:
        with psycopg.connect(postgres.url) as connection:
            connection.execute("CREATE TABLE word AS SELECT '合流' AS text")
        for hurt in (postgres.stop_immediately, postgres.kill):
            hurt()
            assert not embedded.database_answers(postgres.url)
            postgres.start()
            with psycopg.connect(postgres.url) as connection:
                assert connection.execute("SELECT text, upper('é') FROM word").fetchone() == ("合流", "É")


def test_postgres_refuses_a_wrong_password_on_its_socket() -> None:
    with postgres_server() as postgres:
        assert not embedded.database_answers(postgres.url.replace("test-password", "wrong"))


def test_valkey_is_reached_by_redis_py_and_kombu_on_its_socket() -> None:
    with valkey_server() as valkey:
        with redis.Redis.from_url(valkey.url) as client:
            assert client.info("memory")["maxmemory_policy"] == "noeviction"
        with Connection(broker_url(valkey.url)) as connection:
            queue = connection.SimpleQueue("words")
            queue.put({"word": "合流"})
            assert queue.get(timeout=5).payload == {"word": "合流"}
            queue.close()


def test_servers_with_tcp_listen_on_loopback_and_want_the_password() -> None:
    with postgres_server(tcp=True) as postgres, valkey_server(tcp=True) as valkey:
        assert embedded.database_answers(postgres.url)
        assert embedded.redis_answers(valkey.url)
        assert not embedded.redis_answers(valkey.url.replace("test-password", "wrong"))


def test_a_server_leaves_no_process_behind() -> None:
    with postgres_server() as postgres, valkey_server() as valkey:
        folders = [postgres.server.folder, valkey.server.folder]
        assert all(processes.working_in(folder) for folder in folders)
    assert not any(processes.working_in(folder) for folder in folders)


def test_a_fresh_database_is_migrated_and_a_fresh_redis_empty(database_url: str, redis_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM heliu_migrations.applied").fetchone() is not None
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
