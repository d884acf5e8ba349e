"""Puts one text with the Python API of Zenoh, as its own example z_put does.

usage: zenoh_put.py ENDPOINT KEY TEXT
"""

import json
import sys

import zenoh

endpoint, key, text = sys.argv[1:4]
config = zenoh.Config()
config.insert_json5("mode", '"client"')
config.insert_json5("connect/endpoints", json.dumps([endpoint]))
with zenoh.open(config) as session:
    session.put(key, text)
