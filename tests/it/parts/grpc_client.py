"""One call by grpcio, told as JSON in the first argument; prints what came of it as JSON."""

import json
import queue
import sys

import grpc


def told_one_by_one(messages, echoes):
    """Sends the next message only once the one before has come back."""
    for number, message in enumerate(messages):
        if number:
            echoes.get(timeout=20)
        yield message


def main():
    told = json.loads(sys.argv[1])
    options = [("grpc.default_authority", told["authority"]), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
    messages = [text.encode() for text in told["messages"]]
    method = told["method"]
    path = method if method.startswith("/") else "/weft.test.Echo/" + method
    asked = {"metadata": [tuple(pair) for pair in told["metadata"]], "timeout": told["deadline"]}
    got = []
    answer = {}
    with grpc.insecure_channel(told["address"], options) as channel:
        try:
            if method == "ClientStream":
                response, call = channel.stream_unary(path).with_call(iter(messages), **asked)
                got.append(response)
            elif method == "ServerStream":
                call = channel.unary_stream(path)(messages[0], **asked)
                for response in call:
                    got.append(response)
            elif method == "BiDi":
                echoes = queue.Queue()
                call = channel.stream_stream(path)(told_one_by_one(messages, echoes), **asked)
                for response in call:
                    got.append(response)
                    echoes.put(response)
            else:
                response, call = channel.unary_unary(path).with_call(messages[0], **asked)
                got.append(response)
        except grpc.RpcError as error:
            call = error
        answer["code"] = call.code().value[0]
        answer["details"] = call.details() or ""
        for kind, pairs in (("initial", call.initial_metadata()), ("trailing", call.trailing_metadata())):
            answer[kind] = [(key, value if isinstance(value, str) else value.hex()) for key, value in pairs or ()]
    answer["messages"] = [message.decode() for message in got]
    print(json.dumps(answer))


main()
