"""weft.test.Echo on grpcio, over bytes, without generated code. Prints its port.

Metadata x-fail: N ends the call with status N; x-fail-after: M lets M messages through first.
"""

from concurrent import futures

import grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}


def failing(context, sent):
    """Ends the call when its metadata asks for it and enough messages were sent."""
    asked = dict(context.invocation_metadata())
    if "x-fail" in asked and sent >= int(asked.get("x-fail-after", "0")):
        context.abort(CODES[int(asked["x-fail"])], "failed on purpose")


def greet(context):
    """Tells the caller what metadata and deadline came, so that a test can see them."""
    asked = dict(context.invocation_metadata())
    remaining = context.time_remaining()
    context.send_initial_metadata((
        ("x-seen-test", asked.get("x-test", "")),
        ("x-seen-deadline", "none" if remaining is None or remaining > 1e6 else str(int(remaining * 1000))),
    ))
    context.set_trailing_metadata((("x-trailing", "yes"),))


def unary(request, context):
    failing(context, 0)
    greet(context)
    return request


def client_stream(requests, context):
    failing(context, 0)
    greet(context)
    return b",".join(requests)


def server_stream(request, context):
    failing(context, 0)
    greet(context)
    for sent, part in enumerate(request.split(b","), 1):
        yield part
        failing(context, sent)


def bidi(requests, context):
    failing(context, 0)
    greet(context)
    for sent, request in enumerate(requests, 1):
        yield request
        failing(context, sent)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("weft.test.Echo", {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "BiDi": grpc.stream_stream_rpc_method_handler(bidi),
        }),
    ))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


main()
