"""A bare uvicorn server with the product's codec and model: what a framework costs shows here.

bare_server.py VARIANT.json PORT
"""

import sys
from pathlib import Path

import uvicorn

from serving.app import ModelApp
from serving.records import Variant
from serving.runtimes import load_runtime

variant = Variant.model_validate_json(Path(sys.argv[1]).read_text())
app = ModelApp(load_runtime(variant, threads=1), variant, "bare")
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
