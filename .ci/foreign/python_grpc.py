"""gRPC with grpcio."""

import importlib
import os
import queue
import sys

import grpc

sys.path.insert(0, os.path.dirname(__file__))
from common import ORIGIN, gateway, publish, until_confirmed

messages = importlib.import_module("gateway_events.v1_pb2")
services = importlib.import_module("gateway_events.v1_pb2_grpc")

gateway_id, key = gateway()
publish(gateway_id, 3)
with open(os.environ["CA"], "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
channel = grpc.secure_channel(ORIGIN.removeprefix("https://"), credentials)
frames = queue.Queue()
frames.put(
    messages.GatewayFrame(
        connection_hello=messages.ConnectionHello(
            instance="python", named=messages.NAMED_SERVER, confirm=messages.CONFIRM_APPLIED
        )
    )
)
stream = services.GatewaysStub(channel).Connect(iter(frames.get, None), metadata=[("api-key", key)])
seen = []
for frame in stream:
    kind = frame.WhichOneof("frame")
    if not seen and kind == "event":
        assert frame.event.type == "gateway.config.updated", frame
    if kind == "event":
        seen.append(frame.event.sequence)
        if len(seen) == 3:
            break
assert seen == [1, 2, 3], seen
frames.put(messages.GatewayFrame(delivery_ack=messages.DeliveryAck(applied=3)))
until_confirmed(gateway_id, 3)
frames.put(None)
channel.close()
