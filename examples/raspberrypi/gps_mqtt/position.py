def degrees(text, side):
    """`4807.038`, `N`: 48 degrees and 7.038 minutes."""
    point = text.index(".")
    value = float(text[: point - 2]) + float(text[point - 2 :]) / 60
    return round(-value if side in "SW" else value, 6)


def handler(context, event):
    _, _, latitude, north, longitude, east, quality, satellites = event.body.decode().split(",")[:8]
    if quality == "0":
        return None  # no fix yet: nothing is published
    return {
        "latitude": degrees(latitude, north),
        "longitude": degrees(longitude, east),
        "satellites": int(satellites),
    }
