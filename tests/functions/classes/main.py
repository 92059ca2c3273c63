import dataclasses
import pickle
import typing


@dataclasses.dataclass
class Reading:
    value: "typing.Optional[float]" = None


class Plain:
    pass


def handler(context, event):
    same = pickle.loads(pickle.dumps(Reading(21.5))) == Reading(21.5)
    return same and typing.get_type_hints(Reading) == {"value": typing.Optional[float]}
