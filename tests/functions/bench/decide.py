"""JSON in, a decision, JSON out."""


def handler(context, event):
    return {"heating": event.fields["temperature"] < 21, "sensor": event.fields["sensor"]}
