"""Stock paho that echoes bench/in to bench/out. Argument: port."""

import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def on_message(client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
    client.publish("bench/out", message.payload)


client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="paho")
client.on_message = on_message
client.on_connect = lambda client, *rest: client.subscribe("bench/in") and None
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
