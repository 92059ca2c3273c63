import logging
import sys
import threading

print("imported")


def handler(context, event):
    print("a line")
    sys.stderr.write("a complaint\n")
    sys.stdout.buffer.write(b"bytes\n")
    logging.getLogger("pump").warning("pressure %d", 3)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception("sum")


def in_a_thread(context, event):
    thread = threading.Thread(target=print, args=("lambda-less",))
    thread.start()
    thread.join()
    thread = threading.Thread(target=shout)
    thread.start()
    thread.join()


def shout():
    print("from a thread of its own")


def unfinished(context, event):
    print(event.body, end="")


def in_a_thread_that_fails(context, event):
    def fail():
        print("from mine")
        raise ValueError("in mine")

    thread = threading.Thread(target=fail, name="mine")
    thread.start()
    thread.join()
