"""The comparison of variants: ratios against the baseline, GPU columns only with a GPU."""

from __future__ import annotations

from reports.bundle import Bundle
from reports.comparison_table import comparison
from reports.model_tables import quality
from reports.tables import all_tables
from serving.records import Quality, Variant


def column(bundle: Bundle, head: str) -> dict[str, str]:
    table = comparison(bundle)
    index = table.header.index(head)
    return {row[0]: row[index] for row in table.rows}


def test_ratios_are_against_the_baseline(bundle: Bundle) -> None:
    """Sizes and times as the records have them, at each batch size that was benched."""
    assert column(bundle, "Compression") == {
        "sklearn": "-",
        "onnx_fp32": "5.6x",
        "onnx_int8": "16.5x",
    }
    assert column(bundle, "Speed-up at 6,000")["onnx_fp32"] == "2.0x"
    assert column(bundle, "Delta AUC")["onnx_int8"] == "-0.0009"
    assert column(bundle, "Made by")["onnx_int8"] == "onnx_fp32: int8 dynamic"


def test_without_a_bench_there_is_no_comparison(bundle: Bundle) -> None:
    """A study that only built has nothing to compare yet."""
    bare = bundle.model_copy(update={"bench": ()})
    assert "comparison" not in {table.name for table in all_tables(bare) if table.rows}


def test_gpu_columns_come_with_a_gpu(bundle: Bundle) -> None:
    """Time and memory of the GPU beside those of the CPU, and nowhere else."""
    assert not [head for head in comparison(bundle).header if "GPU" in head or head == "VRAM"]
    there = [
        row.model_copy(
            update={"device": "gpu", "gpu_memory_bytes": 300 << 20, "p50_ms": row.p50_ms / 10}
        )
        for row in bundle.bench
        if row.threads == 1 and row.variant != "sklearn"
    ]
    both = bundle.model_copy(update={"bench": (*bundle.bench, *there)})
    assert column(both, "VRAM") == {
        "sklearn": "-",
        "onnx_fp32": "300 MiB",
        "onnx_int8": "300 MiB",
    }
    assert column(both, "GPU ms at 6,000")["onnx_fp32"] == "0.241"
    assert column(both, "CPU ms at 6,000") == column(bundle, "CPU ms at 6,000")
    before = [table for table in all_tables(bundle) if table.name != "comparison"]
    of_gpus = ("comparison", "gpu_measured")
    assert [table for table in all_tables(both) if table.name not in of_gpus] == before


def test_each_workload_shows_its_own_measures(bundle: Bundle) -> None:
    """A classifier without AUC has a column for accuracy, and its delta is of accuracy."""

    def scored(variant: Variant) -> Variant:
        worse = 0.01 if variant.name == "onnx_int8" else 0.0
        scores = Quality(n_rows=100, accuracy=0.7 - worse, f1=0.69, fidelity=0.95)
        return variant.model_copy(update={"quality": scores})

    info = bundle.info.model_copy(update={"metric": "accuracy", "max_loss": 0.02})
    variants = tuple(map(scored, bundle.variants))
    table = quality(bundle.model_copy(update={"info": info, "variants": variants}))
    assert table.header[1:5] == ("Accuracy", "F1", "Fidelity", "Delta accuracy")
    assert table.rows[2][1:5] == ("0.690", "0.690", "0.950", "-0.0100")
    assert "more than 0.02 accuracy" in table.notes[0]
