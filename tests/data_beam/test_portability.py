"""What leaves this process for a worker is complete: the job's graph, and the code and requirements staged with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, SetupOptions
from apache_beam.runners.portability.stager import Stager

from data_beam.curation import Filter, Finish
from data_beam.packaging import requirements, worker_wheel
from data_beam.phases import Job
from data_beam.pipeline import pass_verdicts
from data_beam.runner import runner_of
from data_beam.verdicts import Part
from maxllm.config.curate import CurateConfig

REPOSITORY = Path(__file__).resolve().parents[2]
REMOTE = ["--runner=FlinkRunner", "--flink_master=nowhere:8081"]

# Unpickles everything a job's graph carries, with the staged wheel first on the path.
UNPICKLE = """
import sys
wheel, graph = sys.argv[1:]
sys.path.insert(0, wheel)
import data_beam, maxllm
assert data_beam.__file__.startswith(wheel) and maxllm.__file__.startswith(wheel), data_beam.__file__
from apache_beam.internal import pickler
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
proto = api.Pipeline.FromString(open(graph, "rb").read())
count = 0
for transform in proto.components.transforms.values():
    payloads = []
    if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
        payloads = [api.ParDoPayload.FromString(transform.spec.payload).do_fn]
    elif transform.spec.urn.startswith("beam:transform:combine_"):
        payloads = [api.CombinePayload.FromString(transform.spec.payload).combine_fn]
    for function in payloads:
        if function.urn in (python_urns.PICKLED_DOFN_INFO, python_urns.PICKLED_COMBINE_FN):
            pickler.loads(function.payload)
            count += 1
print(count)
"""


def config() -> CurateConfig:
    return CurateConfig(inputs=[{"format": "python-docs"}, {"format": "warc", "paths": ["gs://bucket/*.warc.gz"]}])


def unpickled(wheel: str, graph: Path, tmp_path: Path) -> int:
    command = [sys.executable, "-I", "-c", UNPICKLE, wheel, str(graph)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


def test_all_that_is_staged_exists_and_all_of_the_graph_unpickles_elsewhere(tmp_path):
    runner, options = runner_of(REMOTE)
    assert runner is None
    staged = Stager.create_job_resources(options, str(tmp_path), log_submission_env_dependencies=False)
    files = [artifact.type_payload.decode(errors="ignore") for artifact in staged]
    (wheel,) = options.view_as(SetupOptions).extra_packages
    assert any("maxllm_worker" in name for name in files) and Path(wheel).is_file()
    job = Job(str(tmp_path / "run"), str(tmp_path / "run.json"))
    parts = [Part(number, f"gs://bucket/documents/{number}.jsonl.zst") for number in range(100)]
    builds = [lambda root: root | Filter(config(), job, only=False), lambda root: root | Finish(config(), parts, job)]

    def later(name: str, build) -> dict:
        builds.append(lambda root: build(root, job))
        return {"verdicts": {}, "violations": 0, "manifest": job.manifest}

    everything = {name: {"enabled": True} for name in ("line_dedup", "substring_dedup", "semantic_dedup")}
    pass_verdicts(CurateConfig.model_validate({**config().model_dump(), **everything}), parts, later)
    assert len(builds) == 5
    functions = 0
    for build in builds:
        pipeline = beam.Pipeline(options=PipelineOptions())
        build(pipeline)
        graph = tmp_path / "graph.pb"
        graph.write_bytes(pipeline.to_runner_api().SerializeToString())
        assert graph.stat().st_size < 1_000_000  # Dataflow refuses 10 MB
        functions += unpickled(wheel, graph, tmp_path)
    assert functions > 60


def test_the_worker_wheel_installs_and_names_what_it_needs(tmp_path):
    wheel = worker_wheel(str(tmp_path))
    assert Path(wheel).read_bytes() == Path(worker_wheel(str(tmp_path))).read_bytes()
    needs = " ".join(requirements())
    assert all(name in needs for name in ("apache-beam", "trafilatura", "pydantic")) and "jax" not in needs
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "data_beam/child.py" in names and not any(name.startswith("serving/") for name in names)
    uv = Path(sys.executable).with_name("uv")
    target = ["--target", str(tmp_path / "site"), "--no-deps", "--offline"]
    subprocess.run([str(uv), "pip", "install", "--quiet", *target, wheel], check=True)
    assert (tmp_path / "site" / "data_beam" / "curation.py").is_file()


def test_options_that_bring_their_own_package_are_left_alone():
    _, options = runner_of([*REMOTE, "--sdk_container_image=registry/maxllm:1"])
    assert not options.view_as(SetupOptions).extra_packages
    runner, options = runner_of(["--direct_num_workers=3"])
    assert runner is not None and options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    runner, options = runner_of([])
    assert options.view_as(DirectOptions).direct_running_mode == "in_memory"


TEMPLATE = """
import sys
import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, TestOptions
from data_beam.curation import Filter
from data_beam.phases import Job
from data_beam.runner import runner_of
from maxllm.config.curate import CurateConfig
folder = sys.argv[1]
_, options = runner_of([
    "--runner=DataflowRunner", "--project=some-project", "--region=us-central1", "--job_name=curate", "--no_auth",
    "--temp_location=gs://bucket/tmp", f"--template_location={folder}/template.json", "--dry_run=True",
])
pipeline = beam.Pipeline(options=options)  # dry_run: the options are checked but the bucket is not asked for
job = Job(f"{folder}/run", f"{folder}/run.json")
pipeline | Filter(CurateConfig(inputs=[{"format": "python-docs"}]), job, only=False)
options.view_as(TestOptions).dry_run = False
options.view_as(GoogleCloudOptions).staging_location = f"{folder}/staging"
pipeline.runner.run_pipeline(pipeline, options)
"""


@pytest.mark.slow
@pytest.mark.peer
@pytest.mark.timeout(900)
def test_the_dataflow_job_is_built_as_far_as_the_sdk_goes_without_credentials(tmp_path):
    """In an environment of its own with the `gcp` extra: template, graph, staged files; then everything unpickles."""
    uv, python = str(Path(sys.executable).with_name("uv")), str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    version = beam.__version__
    packages = [f"{REPOSITORY}[gcp]", f"apache-beam=={version}"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    staging = tmp_path / "staging"
    staging.mkdir()
    done = subprocess.run([python, "-c", TEMPLATE, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    template = (tmp_path / "template.json").read_text()
    assert "pipelineUrl" in template or "pipeline.pb" in template
    (wheel,) = staging.glob("maxllm_worker-*.whl")
    assert wheel.name in (staging / "extra_packages.txt").read_text()
    assert unpickled(str(wheel), staging / "pipeline.pb", tmp_path) > 30
