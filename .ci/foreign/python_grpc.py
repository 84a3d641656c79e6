"""gRPC with grpcio."""

import importlib
import json
import os
import queue
import time

import grpc
from received import KEY, ORIGIN, Received

# Generated from the .proto.
messages = importlib.import_module("gateway_events.v1_pb2")
services = importlib.import_module("gateway_events.v1_pb2_grpc")
HELLO = messages.GatewayFrame(
    connection_hello=messages.ConnectionHello(
        instance="python", named=messages.NAMED_SERVER, confirm=messages.CONFIRM_APPLIED
    )
)
# The client connects again after any other status: when a node is lost, nginx ends the stream with
# INTERNAL, and HAProxy with CANCELLED.
FINAL = (
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT,
)

with open(os.environ["CA"], "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
received = Received()
with grpc.secure_channel(ORIGIN.removeprefix("https://"), credentials) as channel:
    stub = services.GatewaysStub(channel)
    while not received.is_complete():
        # `None` ends this side of the stream.
        frames = queue.Queue()
        frames.put(HELLO)
        stream = stub.Connect(
            iter(frames.get, None), metadata=[("api-key", KEY)], wait_for_ready=True
        )
        try:
            for frame in stream:
                kind = frame.WhichOneof("frame")
                if kind == "connection_ack":
                    received.connected()
                elif kind == "event":
                    received.insert(frame.event.sequence, json.loads(frame.event.payload))
                    # What this stream has not sent yet can't be confirmed on it.
                    applied = min(received.to_confirm(), frame.event.sequence)
                    ack = messages.DeliveryAck(applied=applied)
                    frames.put(messages.GatewayFrame(delivery_ack=ack))
                    if received.is_complete():
                        frames.put(None)
        except grpc.RpcError as error:
            assert error.code() not in FINAL, error
            frames.put(None)
            time.sleep(0.2)
received.report()
