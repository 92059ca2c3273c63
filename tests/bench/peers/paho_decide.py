"""Stock paho: JSON in, a decision, JSON out, as tests/functions/bench/decide.py does. Argument: port."""

import json
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def on_message(client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
    fields = json.loads(message.payload)
    client.publish("bench/out", json.dumps({"heating": fields["temperature"] < 21, "sensor": fields["sensor"]}))


def on_connect(client: mqtt.Client, *rest: object) -> None:
    client.subscribe("bench/in")


client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="paho")
client.on_message = on_message
client.on_connect = on_connect
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
