"""One HTTPS call on Python's ssl. Told as JSON, tells as JSON: status, headers, body, alpn, uris; or error."""

import http.client
import json
import socket
import ssl
import sys


def call(told):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # A mesh's certificate has a URI and no name: the test looks at the URI.
    context.check_hostname = False
    context.load_verify_locations(told["roots"])
    if told.get("alpn"):
        context.set_alpn_protocols([told["alpn"]])
    if told.get("certificate"):
        context.load_cert_chain(told["certificate"], told["key"])
    host, port = told["address"].rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), timeout=20)
    with context.wrap_socket(plain, server_hostname=host) as secure:
        connection = http.client.HTTPConnection(host, int(port))
        connection.sock = secure
        connection.request(told.get("method", "POST"), told["path"], told.get("body"), told.get("headers", {}))
        answer = connection.getresponse()
        body = answer.read().decode()
        shown = secure.getpeercert().get("subjectAltName", ())
        return {
            "status": answer.status,
            "headers": {name.lower(): value for name, value in answer.getheaders()},
            "body": body,
            "version": secure.version(),
            "alpn": secure.selected_alpn_protocol(),
            "uris": [value for kind, value in shown if kind == "URI"],
        }


try:
    print(json.dumps(call(json.loads(sys.argv[1]))))
except (OSError, http.client.HTTPException) as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
