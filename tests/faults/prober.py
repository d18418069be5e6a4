"""Asks URL/livez and URL/readyz again and again, each on a connection of its own, until its standard input ends; then
prints what it saw as JSON.

A process of its own, so that it does not wait for the threads that play clients. On a busy machine it waits all the same,
for a processor: how long, a round trip to a child says that does nothing else than answer ("echo").
"""

import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.parse

PERIOD = 0.02


def echo(connection):
    while data := connection.recv(16):
        connection.sendall(data)


def ask_server(address, path, seen, stopping):
    connection = http.client.HTTPConnection(*address, timeout=10)
    while not stopping.is_set():
        begin = time.monotonic()
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        seen["seconds"].append(time.monotonic() - begin)
        if response.status not in seen["statuses"]:
            seen["statuses"].append(response.status)
        time.sleep(PERIOD)


def ask_child(connection, seen, stopping):
    while not stopping.is_set():
        begin = time.monotonic()
        connection.sendall(b"x")
        connection.recv(16)
        seen["seconds"].append(time.monotonic() - begin)
        time.sleep(PERIOD)


def main():
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        sys.stdin.close()
        echo(theirs)
        os._exit(0)
    theirs.close()
    url = urllib.parse.urlsplit(sys.argv[1])
    stopping = threading.Event()
    seen = {name: {"seconds": [], "statuses": []} for name in ("/livez", "/readyz", "echo")}
    threads = [threading.Thread(target=ask_server, args=((url.hostname, url.port), path, seen[path], stopping))
               for path in ("/livez", "/readyz")]
    threads.append(threading.Thread(target=ask_child, args=(ours, seen["echo"], stopping)))
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
