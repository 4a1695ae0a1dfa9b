"""An SMTP client: waits for the greeting, sends one mail, and tells the answer."""

import smtplib
import sys

host, port = sys.argv[1].rsplit(":", 1)
with smtplib.SMTP(host, int(port), local_hostname="client.test", timeout=20) as client:
    client.ehlo_or_helo_if_needed()
    client.mail("a@client.test")
    client.rcpt("b@mail.test")
    code, answer = client.data("subject: hello\r\n\r\n" + ("x" * 98 + "\r\n") * 100)
print("ok" if code == 250 else "no", answer.decode())
