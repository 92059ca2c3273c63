"""Stock paho: loop_forever and a callback that counts as ours does. Arguments: port, QoS, version."""

import os
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

MARKS = {int(one) for one in os.environ["BENCH_MARKS"].split(",")}
PORT, QOS, VERSION = map(int, sys.argv[1:4])
seen = 0


def on_message(client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
    global seen  # noqa: PLW0603 - as users write it
    seen += 1
    if seen in MARKS:
        client.publish("bench/done", str(seen))


def on_connect(client: mqtt.Client, *rest: object) -> None:
    client.subscribe("bench/in", QOS)


client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="paho", protocol=MQTTProtocolVersion(VERSION))
client.on_message = on_message
client.on_connect = on_connect
client.connect("127.0.0.1", PORT)
client.loop_forever()
