"""PostgreSQL's own client, which asks for TLS first (SSLRequest) and takes a no: rows there and back."""

import sys

import psycopg

host, port = sys.argv[1].rsplit(":", 1)
where = f"host={host} port={port} user=postgres dbname=postgres sslmode=prefer connect_timeout=20"
with psycopg.connect(where, autocommit=True) as connection:
    connection.execute("create table calls (id int, body text)")
    with connection.cursor().copy("copy calls from stdin") as copy:
        for number in range(1000):
            copy.write_row((number, "x" * 100))
    count, length = connection.execute("select count(*), sum(length(body)) from calls").fetchone()
print("ok", count, length)
