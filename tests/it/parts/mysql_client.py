"""MySQL's protocol by PyMySQL, whose server greets first: rows there and back, and a value of 300 kB. mysql_client.py ADDRESS"""

import sys

import pymysql

host, port = sys.argv[1].rsplit(":", 1)
where = {"host": host, "port": int(port), "user": "root", "connect_timeout": 20, "read_timeout": 20}
with pymysql.connect(**where, autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute("create or replace database shop")
    cursor.execute("create table shop.calls (id int, body mediumtext)")
    rows = [(number, "x" * 100) for number in range(1000)]
    cursor.executemany("insert into shop.calls values (%s, %s)", rows)
    cursor.execute("select count(*), sum(length(body)) from shop.calls")
    count, length = cursor.fetchone()
    value = "0123456789" * 30_000
    cursor.execute("select %s", (value,))
    assert cursor.fetchone() == (value,)
print("ok", count, length)
