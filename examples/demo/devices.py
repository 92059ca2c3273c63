"""Simulated field devices: what they publish is what the real ones publish, and they do what commands tell them.

    Tasmota       tele/livingroom/SENSOR            {"Time": ..., "AM2301": {"Temperature": 19.4, ...}}
                  cmnd/livingroom-heater/POWER      ON      -> stat/livingroom-heater/POWER, .../RESULT
    Zigbee2MQTT   zigbee2mqtt/hall_motion           {"occupancy": true, "illuminance": 12, ...}
                  zigbee2mqtt/hall_lamp/set         {"state": "ON"}     -> zigbee2mqtt/hall_lamp
    Shelly Gen1   shellies/washer/relay/0/power     1840.55
                  shellies/washer/relay/0/command   off     -> shellies/washer/relay/0
    Shelly Gen2   pump/events/rpc                   {"method": "NotifyStatus", ...}
                  pump/rpc                          {"method": "Switch.Set", ...}     -> pump/rpc's `src`/rpc
    no name       sensors/outdoor/temperature       7.8

Time runs fast here: a room cools by a degree in five seconds.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from typing import Any

Publish = Callable[..., None]  # topic, payload, retain=False
Say = Callable[[str, str, str], None]  # family, device, what it does

chance = random.Random(7)  # noqa: S311 - nothing secret


class Room:
    """A Tasmota sensor and a Tasmota plug with a heater: ON warms what the sensor feels."""

    family = "Tasmota"
    every = 2.0

    def __init__(self, name: str, temperature: float) -> None:
        self.name = name
        self.temperature = temperature
        self.heats = False
        self.since = time.monotonic()
        self.commands = [f"cmnd/{name}-heater/POWER"]

    def publish(self, publish: Publish) -> None:
        now = time.monotonic()
        self.temperature += (now - self.since) * (0.3 if self.heats else -0.2) + chance.uniform(-0.05, 0.05)
        self.since = now
        sensor = {"Temperature": round(self.temperature, 1), "Humidity": 41.0, "DewPoint": 6.1}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
        publish(f"tele/{self.name}/SENSOR", {"Time": stamp, "AM2301": sensor, "TempUnit": "C"})

    def obey(self, topic: str, payload: str, publish: Publish) -> str:
        self.heats = payload.upper() in ("ON", "1", "TRUE")
        power = "ON" if self.heats else "OFF"
        publish(f"stat/{self.name}-heater/RESULT", {"POWER": power})
        publish(f"stat/{self.name}-heater/POWER", power)
        return f"{self.name}-heater {power}: {'warmer' if self.heats else 'colder'} now"


class Hall:
    """A Zigbee motion sensor and a Zigbee lamp, as Zigbee2MQTT shows them."""

    family = "Zigbee2MQTT"
    every = 4.0

    def __init__(self) -> None:
        self.occupied = False
        self.commands = ["zigbee2mqtt/hall_lamp/set"]

    def publish(self, publish: Publish) -> None:
        self.occupied = not self.occupied
        publish(
            "zigbee2mqtt/hall_motion",
            {"battery": 97, "illuminance": chance.randint(3, 20), "linkquality": 110, "occupancy": self.occupied},
        )

    def obey(self, topic: str, payload: str, publish: Publish) -> str:
        state = {"brightness": 0, "linkquality": 87, **json.loads(payload)}
        publish("zigbee2mqtt/hall_lamp", state)
        return f"hall_lamp {state['state']}"


class Metered:
    """A switch that measures; now and then what hangs on it goes wrong, until somebody switches it off."""

    every = 3.0

    def __init__(self, name: str, normal: float) -> None:
        self.name = name
        self.normal = normal
        self.on = True
        self.readings = 0
        self.wrong = False

    def power(self) -> float:
        self.readings += 1
        if not self.on and self.readings > 2:  # somebody has repaired it and switched it on again
            self.on, self.wrong, self.readings = True, False, 0
        elif self.on and self.readings > 2:
            self.wrong = True
        return 0.0 if not self.on else chance.uniform(0.9, 1.1) * (2800 if self.wrong else self.normal)

    def switch(self, on: bool) -> str:
        self.on, self.readings = on, 0
        return f"{self.name} {'on' if on else 'off'}"


class ShellyGen1(Metered):
    """A Shelly of the first generation: plain text under shellies/."""

    family = "Shelly Gen1"

    def __init__(self, name: str, normal: float) -> None:
        super().__init__(name, normal)
        self.commands = [f"shellies/{name}/relay/0/command"]

    def publish(self, publish: Publish) -> None:
        publish(f"shellies/{self.name}/relay/0/power", f"{self.power():.2f}")

    def obey(self, topic: str, payload: str, publish: Publish) -> str:
        publish(f"shellies/{self.name}/relay/0", payload)
        return self.switch(payload == "on")


class ShellyGen2(Metered):
    """A Shelly of the second generation: JSON-RPC."""

    family = "Shelly Gen2"
    every = 5.0

    def __init__(self, name: str, normal: float) -> None:
        super().__init__(name, normal)
        self.commands = [f"{name}/rpc"]

    def publish(self, publish: Publish) -> None:
        status = {"id": 0, "output": self.on, "apower": round(self.power(), 1), "voltage": 229.8}
        params = {"ts": round(time.time(), 2), "switch:0": status}
        notice = {"src": self.name, "dst": f"{self.name}/events", "method": "NotifyStatus", "params": params}
        publish(f"{self.name}/events/rpc", notice)

    def obey(self, topic: str, payload: str, publish: Publish) -> str:
        request = json.loads(payload)
        was = self.on
        answer = {"id": request["id"], "src": self.name, "dst": request["src"], "result": {"was_on": was}}
        publish(f"{request['src']}/rpc", answer)
        return self.switch(bool(request["params"]["on"]))


class Outdoor:
    """A home-made sensor that publishes a bare number."""

    family = "plain number"
    every = 11.0
    commands = ()

    def publish(self, publish: Publish) -> None:
        publish("sensors/outdoor/temperature", f"{chance.uniform(4, 9):.1f}")

    def obey(self, topic: str, payload: str, publish: Publish) -> str:
        return ""


class Field:
    """All devices behind one MQTT client; `turn` is to be called a few times a second."""

    def __init__(self, host: str, port: int, say: Say) -> None:
        import paho.mqtt.client as mqtt

        self.commands = 0  # that arrived
        self._say = say
        self._devices = [
            Room("livingroom", 20.4),
            Hall(),
            ShellyGen1("washer", 450),
            Room("office", 20.7),
            ShellyGen2("pump", 310),
            Outdoor(),
        ]
        now = time.monotonic()
        self._due = [now + 0.4 * (number + 1) for number in range(len(self._devices))]
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="demo-devices")
        self._client.on_connect = self._connected
        self._client.on_message = lambda _client, _data, message: self._obey(message.topic, message.payload.decode())
        self._client.connect_async(host, port)
        self._client.loop_start()

    def turn(self) -> None:
        """Let publish whoever's time it is."""
        now = time.monotonic()
        for number, device in enumerate(self._devices):
            if now >= self._due[number] and self._client.is_connected():
                self._due[number] = now + device.every
                device.publish(self._publish)

    def close(self) -> None:
        """Switch everything off."""
        self._client.disconnect()
        with contextlib.suppress(AttributeError):  # loop_stop() trips over a thread that ends in that very moment
            self._client.loop_stop()

    def _connected(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        if reason.is_failure:
            self._say("broker", "demo-devices", f"refuses the simulated devices: {reason}")
        else:
            client.subscribe([(topic, 1) for device in self._devices for topic in device.commands])

    def _publish(self, topic: str, payload: object, retain: bool = False) -> None:
        self._client.publish(topic, payload if isinstance(payload, str) else json.dumps(payload), qos=1, retain=retain)

    def _obey(self, topic: str, payload: str) -> None:
        for device in self._devices:
            if topic in device.commands:
                self.commands += 1
                self._say(device.family, topic, device.obey(topic, payload, self._publish))
