"""A model traces the same whether or not its modelling module was imported before."""

import subprocess
import sys

CODE = """
import torch
import transformers.models.mamba.modeling_mamba
from transformers import AutoModelForCausalLM, MambaConfig
with torch.device("meta"):
    AutoModelForCausalLM.from_config(MambaConfig(num_hidden_layers=1))
from servesim.models.load import load_graph
graph = load_graph("state-spaces/mamba-2.8b-hf", cache=False)
print(sorted({op.kind for op, _ in graph.weighted_ops()}))
"""


def test_modules_imported_before_are_imported_anew() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert "recurrent" in run.stdout
    assert "other" not in run.stdout
