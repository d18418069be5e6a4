"""Goes on with a text over gRPC, with stubs made of our .proto.

    mkdir -p stubs
    python -m grpc_tools.protoc -I../../proto --python_out=stubs --grpc_python_out=stubs optserve/v1/completion.proto
    PYTHONPATH=stubs python grpc_stream.py 127.0.0.1:8001 "Call me Ishmael."
"""

import os
import sys

import grpc

from optserve.v1 import completion_pb2, completion_pb2_grpc


def main(address, text):
    key = os.environ.get("OPTSERVE_API_KEY")
    metadata = [("authorization", f"Bearer {key}")] if key else []
    with grpc.insecure_channel(address) as channel:
        stub = completion_pb2_grpc.CompletionStub(channel)  # gRPC's word for the client's side of a service
        request = completion_pb2.CompletionRequest(prompt=[{"text": text}], max_tokens=16, temperature=0, logprobs=0)
        total = 0.0
        print(text, end="", flush=True)
        try:
            for event in stub.Stream(request, timeout=60, metadata=metadata):
                choice = event.choices[0]
                total += sum(score.token.logprob for score in choice.logprobs)
                print(choice.text, end="", flush=True)
        except grpc.RpcError as error:
            sys.exit(f"\n{error.code().name}: {error.details()}")
        print(f"\nlog likelihood {total:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
