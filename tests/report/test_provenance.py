"""Where numbers come from, and in what records differ."""

from harness.report.provenance import datasets, environment, machines, models
from tests.report import examples


def embed(key="e01", **changes):
    return examples.embed("minilm", "docstrings", 8, 100.0, key, **changes)


def test_records_made_alike_do_not_differ():
    assert environment([embed(), embed("e02")]).differing == ()


def test_another_version_commit_or_kernel_is_pointed_out_with_its_cells():
    other = dict(
        examples.ENVIRONMENT,
        commit="fedc",
        versions=dict(examples.ENVIRONMENT["versions"], torch="2.14.0"),
        machine=dict(examples.MACHINE, kernel="6.2.0"),
    )
    found = environment([embed(), embed("e02"), embed("e03", environment=other)])
    assert {one.name: dict(one.values) for one in found.differing} == {
        "program: commit": {examples.ENVIRONMENT["commit"]: 2, "fedc": 1},
        "versions: torch": {"2.13.0": 2, "2.14.0": 1},
        "machine: kernel": {"6.1.0": 2, "6.2.0": 1},
    }
    assert "torch" not in dict(found.common["versions"])
    assert dict(found.common["versions"])["numpy"] == "2.4.0"


def test_a_library_that_only_some_cells_use_is_no_difference():
    other = dict(examples.ENVIRONMENT, versions={"faiss-cpu": "1.15.1"})
    found = environment([embed(), embed("e02", environment=other)])
    assert found.differing == ()
    assert {"faiss-cpu", "torch"} <= set(dict(found.common["versions"]))


def test_what_one_index_is_like_inside_its_store_is_no_difference_but_the_engines_version_is():
    def differing(version):
        engines = ({"version": version, "ready": {"rows": 1}}, {"version": "1", "ready": {"rows": 2}})
        found = [
            examples.search("minilm", "docstrings", "flat", (), f"a0{place}", environment=dict(examples.ENVIRONMENT, engine=engine))
            for place, engine in enumerate(engines)
        ]
        return [one.name for one in environment(found).differing]

    assert differing("1") == []
    assert differing("2") == ["engine: milvus_lite version"]


def test_the_work_of_others_at_the_moment_is_no_difference():
    assert environment([embed(), embed("e02", environment=dict(examples.ENVIRONMENT, other_work=0.9))]).differing == ()


def test_the_machine_is_named_in_a_few_words():
    assert machines([embed()]) == ["Example CPU @ 2.50GHz, 2 cores, 8 GiB"]
    assert machines([embed(environment={})]) == []


def test_models_and_data_are_listed_once_for_each_of_their_contents():
    found = examples.records()
    assert [(row["model"], row["weights"], row["parameters"]) for row in models(found)] == [
        ("minilm", "pretrained", "22,713,216"),
        ("resnet50", "random weights", "23,508,032"),
    ]
    assert [(row["dataset"], row["corpus"]) for row in datasets(found)] == [("docstrings", "20,000"), ("scenes", "1,000")]


def test_a_sweep_over_devices_is_no_difference_and_names_the_accelerator():
    found = [
        embed(f"e0{place}", environment=dict(examples.ENVIRONMENT, machine=dict(examples.MACHINE, device=device, device_name=name)))
        for place, (device, name) in enumerate([("cpu", "CPU"), ("cuda:0", "Example GPU")])
    ]
    assert environment(found).differing == ()
    assert machines(found) == ["Example CPU @ 2.50GHz, 2 cores, 8 GiB, Example GPU"]


def test_the_cells_under_each_value_are_named():
    other = dict(examples.ENVIRONMENT, commit="fedc")
    [found] = environment([embed(), embed("e02"), embed("e03", environment=other)]).differing
    assert found.keys == (("e01", "e02"), ("e03",))
