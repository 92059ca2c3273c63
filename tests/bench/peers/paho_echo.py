"""Stock paho that echoes bench/in to bench/out. Argument: port."""

import sys

import paho.mqtt.client as mqtt

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho")
client.on_message = lambda client, userdata, message: client.publish("bench/out", message.payload)
client.on_connect = lambda client, *rest: client.subscribe("bench/in")
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
