"""Runs portable test files under any Python: `micropython run.py test_router test_event`; prints a line a test.

Core must be importable; tests/interpreters.py lays that out. Where there is no sys.argv (WebAssembly), call `run`.
"""

import sys


def run(names: "list[str]") -> int:
    """Run the tests of these modules; returns how many failed."""
    passed = failed = 0
    for name in names:
        module = __import__(name)
        for test in sorted(dir(module)):
            if not test.startswith("test_"):
                continue
            try:
                getattr(module, test)()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the next test has its turn
                failed += 1
                print("FAIL", name + "::" + test)
                if hasattr(sys, "print_exception"):
                    sys.print_exception(error)
                else:
                    sys.excepthook(type(error), error, error.__traceback__)
            else:
                passed += 1
                print("pass", name + "::" + test)
        del sys.modules[name]
    print(passed, "passed,", failed, "failed")
    return failed


if __name__ == "__main__":
    sys.exit(1 if run(sys.argv[1:]) else 0)
