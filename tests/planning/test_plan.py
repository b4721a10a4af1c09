"""The plan: pure, complete in what is missing or impossible, and the same for the same
recipe.
"""

import pathlib

import pytest

from edgekit import catalog, registry
from edgekit import recipe as recipes
from edgekit import target as targets
from edgekit.errors import HostError, PlanError, TargetError
from edgekit.planning.plan import Plan, plan, targets_of
from edgekit.recipe import Recipe
from edgekit.target import Target

WHOLE = {
    "model": "zoo:cnn",
    "task": "digits",
    "compress": ["train", {"prune": {}}, "finetune", {"quantize": {}}],
}


def shipped(name: str) -> Target:
    """A target that is shipped."""
    return targets.load(catalog.find("targets", name))


def planned(
    data: dict[str, object], *names: str, without: tuple[str, ...] = ()
) -> Plan:
    """A plan where every package is installed but those named in ``without``."""
    return plan(
        Recipe.model_validate(data),
        [shipped(name) for name in names],
        lambda module: module not in without,
    )


def told(found: Plan) -> str:
    """All problems of a plan, as the user reads them."""
    return "\n".join(
        f"{problem.where}: {problem.what} | {problem.fix}"
        for problem in found.problems
    )


@pytest.mark.parametrize("name", catalog.names("recipes"))
def test_every_shipped_recipe_can_be_planned(
    name: str, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shipped recipe, with the model, task and targets that it leaves open, has no
    problem where all is installed.
    """
    monkeypatch.chdir(root)
    recipe = recipes.load(catalog.find("recipes", name))
    filled = recipe.model_copy(
        update={
            "model": recipe.model or "zoo:cnn",
            "task": recipe.task or "digits",
        }
    )
    if filled.find("train") is None:
        weights = (
            root / "README.md"
        )  # a file that is there: the plan looks no further
        filled = filled.model_copy(update={"weights": str(weights)})
    found = plan(
        filled,
        [
            shipped(target)
            for target in recipe.targets or catalog.names("targets")
        ],
        lambda module: True,
    )
    assert told(found) == ""
    found.require_possible()


def test_the_digits_recipe_has_the_whole_way() -> None:
    """Teacher, shared steps, the float baseline before pruning, and each target's
    candidates in its own order.
    """
    found = plan(
        recipes.load(catalog.find("recipes", "digits")),
        [
            shipped(name)
            for name in (
                "cpu-onnx",
                "mobile-tflite",
                "coral-edgetpu",
                "rtx-tensorrt",
            )
        ],
    )
    assert [step.intent for step in found.teacher] == [
        "load teacher",
        "train teacher",
    ]
    assert [step.intent for step in found.shared] == [
        "load",
        "train",
        "distill",
        "prune",
        "finetune",
    ]
    assert [step.intent for step in found.shared[: found.baseline]] == [
        "load",
        "train",
        "distill",
    ]
    assert [step.step for step in found.shared][-1] == "distill", (
        "fine-tuning learns from the teacher where there is one"
    )
    schemes = {
        row.target.name: [candidate.scheme for candidate in row.candidates]
        for row in found.targets
    }
    assert schemes == {
        "cpu-onnx": [
            "w8a8-static",
            "w8a8-static-linear",
            "w8-dynamic",
            "w8-dynamic-tensor",
            "w8-weight",
            "w4-weight",
            "fp16",
            "float",
        ],
        "mobile-tflite": [
            "w8a8-static",
            "w8-dynamic",
            "w8-dynamic-tensor",
            "w8-weight",
            "w4-weight",
            "w8a16-static",
            "fp16",
            "float",
        ],
        "coral-edgetpu": ["w8a8-static"],
        "rtx-tensorrt": ["w8a8-static", "w4-weight", "fp16", "float"],
    }
    assert all(row.reference.scheme == "float" for row in found.targets)


@pytest.mark.parametrize(
    ("target", "scheme", "route"),
    [
        ("cpu-onnx", "float", ["torch_to_onnx"]),
        ("cpu-onnx", "fp16", ["torch_to_onnx", "quantize_onnx"]),
        ("cpu-onnx", "w8-dynamic", ["torch_to_onnx", "quantize_onnx"]),
        ("cpu-onnx", "w4-weight", ["torch_to_onnx", "quantize_onnx"]),
        (
            "cpu-onnx",
            "w8a8-static",
            ["quantize_torch", "torch_to_onnx", "lower_onnx"],
        ),
        (
            "mobile-tflite",
            "w8-dynamic",
            ["torch_to_tflite", "tune_tflite", "quantize_tflite"],
        ),
        (
            "mobile-tflite",
            "w8-dynamic-tensor",
            ["torch_to_tflite", "quantize_tflite"],
        ),
        ("mobile-tflite", "w4-weight", ["torch_to_tflite", "quantize_tflite"]),
        (
            "mobile-tflite",
            "w8a16-static",
            ["torch_to_tflite", "calibrate_tflite"],
        ),
        ("mobile-tflite", "w8a8-static", ["quantize_torch", "torch_to_tflite"]),
        (
            "coral-edgetpu",
            "w8a8-static",
            ["quantize_torch", "torch_to_tflite", "tflite_to_edgetpu"],
        ),
        (
            "ethos-u55-256",
            "w8a8-static",
            ["quantize_torch", "torch_to_tflite", "tflite_to_ethosu"],
        ),
        (
            "android-ort",
            "w8a8-static",
            ["quantize_torch", "torch_to_onnx", "lower_onnx", "onnx_to_ort"],
        ),
        (
            "android-ort",
            "w4-weight",
            ["torch_to_onnx", "quantize_onnx", "onnx_to_ort"],
        ),
        ("android-ort", "float", ["torch_to_onnx", "onnx_to_ort"]),
        (
            "rtx-tensorrt",
            "w8a8-static",
            ["quantize_torch", "torch_to_onnx", "onnx_to_tensorrt"],
        ),
        ("rtx-tensorrt", "float", ["torch_to_onnx", "onnx_to_tensorrt"]),
        (
            "rtx40-tensorrt",
            "w8a8-static",
            ["quantize_torch", "torch_to_onnx", "onnx_to_tensorrt"],
        ),
        (
            "rtx40-tensorrt",
            "fp8",
            ["torch_to_onnx", "quantize_tensorrt", "onnx_to_tensorrt"],
        ),
        (
            "rtx40-tensorrt",
            "w4-weight",
            ["torch_to_onnx", "quantize_tensorrt", "onnx_to_tensorrt"],
        ),
        (
            "jetson-orin-nano",
            "w8a8-static",
            ["quantize_torch", "torch_to_onnx", "onnx_to_engine_recipe"],
        ),
        (
            "jetson-thor",
            "fp8",
            ["torch_to_onnx", "quantize_tensorrt", "onnx_to_engine_recipe"],
        ),
        (
            "rtx-turing",
            "fp16",
            ["torch_to_onnx", "quantize_onnx", "onnx_to_tensorrt"],
        ),
    ],
)
def test_a_scheme_takes_only_the_steps_that_it_needs(
    target: str, scheme: str, route: list[str]
) -> None:
    """A step with nothing to do for a scheme is left out of its way."""
    (row,) = planned(WHOLE, target).targets
    (candidate,) = (one for one in row.candidates if one.scheme == scheme)
    assert [step.step for step in candidate.steps] == route


def test_an_ethos_u_gets_what_its_target_says_and_never_a_float_file() -> None:
    """Vela's names and the SRAM reach the step; a float file is the reference only; Vela's
    package is asked for with its extra.
    """
    (row,) = planned(
        {
            **WHOLE,
            "compress": ["train", {"quantize": {"scheme": "w8a8-static"}}],
        },
        "ethos-u65-512",
    ).targets
    assert dict(row.candidates[0].steps[-1].parameters) == {
        "accelerator": "ethos-u65-512",
        "system_config": "Ethos_U65_High_End",
        "memory_mode": "Dedicated_Sram_384KB",
        "sram_bytes": 384 * 1024,
    }
    assert row.left_out == {
        "float": "nothing of it would run on the NPU, which computes in integers"
    }
    assert [step.step for step in row.reference.steps] == ["torch_to_tflite"]
    lacking = plan(
        Recipe.model_validate(WHOLE),
        [shipped("ethos-u65-512")],
        lambda module: module != "ethosu.vela",
    )
    assert (
        "ethosu.vela, needed by ethos-u65-512 (tflite_to_ethosu) | pip install 'edgekit[ethosu]'"
        in told(lacking)
    )


def test_a_scheme_that_one_of_the_gpus_lacks_is_left_out_before_any_work() -> (
    None
):
    """fp8 in a target with an Ampere card: the others are raced, and it is told which GPUs
    could have it and how; asked for by name it is a problem.
    """
    shared = shipped("rtx-tensorrt").model_copy(
        update={"schemes": ("fp8", "w8a8-static")}
    )
    (row,) = plan(
        Recipe.model_validate(WHOLE), [shared], lambda module: True
    ).targets
    assert [candidate.scheme for candidate in row.candidates] == ["w8a8-static"]
    assert row.left_out["fp8"] == (
        "SM86 cannot run fp8, which requires SM89 or newer (of this target's compute "
        "capabilities SM89 and SM120 can); "
        "write another target with compute_capabilities: [SM89, SM120] for it"
    )
    asked = plan(
        Recipe.model_validate(
            {**WHOLE, "compress": ["train", {"quantize": {"scheme": "fp8"}}]}
        ),
        [shared],
        lambda module: True,
    )
    assert "fp8 cannot be executed: SM86 cannot run fp8" in told(asked)


@pytest.mark.parametrize(
    ("scheme", "route"),
    [
        ("w8a8-static-inc", ["neural_compressor_to_onnx", "lower_onnx"]),
        ("w4-weight-rtn", ["neural_compressor_to_onnx"]),
        ("w4-weight-awq", ["neural_compressor_to_onnx"]),
        ("w4-weight-hqq", ["neural_compressor_to_onnx"]),
    ],
)
def test_neural_compressors_step_stands_for_edgekits_own(
    scheme: str, route: list[str]
) -> None:
    """One step quantizes and exports; the file is still lowered where it is calibrated.

    Its package is asked for, and its extra named.
    """
    board = shipped("cpu-onnx").model_copy(
        update={"schemes": (scheme, "float")}
    )
    recipe = Recipe.model_validate(
        {
            **WHOLE,
            "compress": [
                "train",
                {"quantize": {"scheme": scheme, "samples": 99}},
            ],
        }
    )
    (row,) = plan(recipe, [board], lambda module: True).targets
    steps = row.candidates[0].steps
    assert [step.step for step in steps] == route
    assert steps[0].parameters == {"scheme": scheme, "samples": 99}
    said = told(
        plan(recipe, [board], lambda module: module != "neural_compressor")
    )
    assert (
        "neural_compressor, needed by cpu-onnx (neural_compressor_to_onnx) | pip "
        "install 'edgekit[intel]'" in said
    )


def test_limits_flow_backwards() -> None:
    """Pruning keeps the channels that all targets want, and TensorRT's symmetric
    activations reach the quantizer.
    """
    board = shipped("cpu-onnx").model_copy(
        update={"name": "board", "limits": targets.Limits(channel_multiple=12)}
    )
    found = plan(
        Recipe.model_validate(WHOLE),
        [board, shipped("rtx-tensorrt")],
        lambda module: True,
    )
    assert (
        next(step for step in found.shared if step.step == "prune").parameters[
            "multiple"
        ]
        == 24
    )
    symmetric = [
        row.candidates[0].steps[0].parameters["symmetric"]
        for row in found.targets
    ]
    assert symmetric == [False, True]


def test_a_named_scheme_is_raced_against_float_only() -> None:
    """`scheme: w8-dynamic` builds that one and the float file; no quantize entry builds
    float alone.
    """
    one = planned(
        {
            **WHOLE,
            "compress": ["train", {"quantize": {"scheme": "w8-dynamic"}}],
        },
        "mobile-tflite",
    )
    assert [row.scheme for row in one.targets[0].candidates] == [
        "w8-dynamic",
        "float",
    ]
    none = planned({**WHOLE, "compress": ["train"]}, "mobile-tflite")
    assert [row.scheme for row in none.targets[0].candidates] == ["float"]
    assert none.baseline == len(none.shared)


def test_gates_are_the_recipes_unless_the_target_sets_its_own() -> None:
    """A target's gate wins over the recipe's."""
    strict = shipped("cpu-onnx").model_copy(
        update={"gates": recipes.Gates(speedup=3)}
    )
    (row,) = plan(
        Recipe.model_validate(
            {**WHOLE, "gates": {"accuracy_drop": 0.01, "speedup": 1}}
        ),
        [strict],
        lambda module: True,
    ).targets
    assert (row.gates.accuracy_drop, row.gates.speedup) == (0.01, 3)


@pytest.mark.parametrize(
    ("changes", "target", "said"),
    [
        (
            {"model": None},
            "cpu-onnx",
            "model: the recipe names no network | give --model zoo:resnet8",
        ),
        (
            {"task": None},
            "cpu-onnx",
            "task: the recipe names no task | give --task digits",
        ),
        (
            {"model": "zoo:resnet9"},
            "cpu-onnx",
            "Unknown model source 'zoo:resnet9'. Did you mean 'zoo:resnet",
        ),
        ({"model": "resnet8"}, "cpu-onnx", "Unknown model source 'resnet8'"),
        (
            {"model": "none.py:model"},
            "cpu-onnx",
            "model: there is no file none.py",
        ),
        (
            {"model": "edgekit_test_nowhere.net:model"},
            "cpu-onnx",
            "there is no module 'edgekit_test_nowhere.net'",
        ),
        (
            {"model": "net.py:my model"},
            "cpu-onnx",
            "does not end in a function's name",
        ),
        (
            {"task": "digit"},
            "cpu-onnx",
            "Unknown task 'digit'. Did you mean 'digits'?",
        ),
        ({"task": "none.npz"}, "cpu-onnx", "task: there is no file none.npz"),
        (
            {"weights": "none.safetensors"},
            "cpu-onnx",
            "weights: there is no file none.safetensors",
        ),
        (
            {"compress": [{"quantize": {}}]},
            "cpu-onnx",
            "would have random weights | add a train entry",
        ),
        (
            {"compress": ["prune", "train", "quantize"]},
            "cpu-onnx",
            "the network that everything is compared with would have random",
        ),
        (
            {"compress": ["train", {"distill": {"teacher": "zoo:resnet99"}}]},
            "cpu-onnx",
            "distill.teacher: Unknown model source 'zoo:resnet99'",
        ),
        (
            {
                "compress": [
                    "train",
                    {
                        "distill": {
                            "teacher": "zoo:cnn",
                            "teacher_weights": "t.st",
                        }
                    },
                ]
            },
            "cpu-onnx",
            "distill.teacher_weights: there is no file t.st",
        ),
        (
            {"compress": ["train", {"prune": {"multiple": 4}}]},
            "cpu-onnx",
            "cpu-onnx: prune.multiple: the target requires multiples of 8",
        ),
        (
            {"compress": ["train", {"quantize": {"scheme": "fp8"}}]},
            "cpu-onnx",
            "fp8 cannot be executed: the format onnx has no fp8",
        ),
        (
            {"compress": ["train", {"quantize": {"scheme": "fp16"}}]},
            "coral-edgetpu",
            "fp16 cannot be executed: the format edgetpu has no fp16",
        ),
        (
            {"compress": ["train"]},
            "coral-edgetpu",
            "no scheme is left for this target (float: the device runs integer arithmetic only)",
        ),
    ],
)
def test_what_is_missing_or_impossible_is_told_before_any_work(
    changes: dict[str, object],
    target: str,
    said: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each impossible recipe is one line with its way out."""
    monkeypatch.chdir(tmp_path)
    found = planned({**WHOLE, **changes}, target)
    assert said in told(found)
    with pytest.raises(PlanError, match="cannot be run:"):
        found.require_possible()


def test_all_problems_are_told_at_once() -> None:
    """A wrong model, a wrong task, a wrong multiple and a missing package come in one
    error, the user's mistakes first.
    """
    data = {
        "model": "zoo:resnet",
        "task": "digit",
        "compress": ["train", {"prune": {"multiple": 3}}, {"quantize": {}}],
    }
    found = planned(data, "cpu-onnx", without=("onnxruntime",))
    assert [problem.where for problem in found.problems] == [
        "model",
        "task",
        "cpu-onnx: prune.multiple",
        "missing package",
    ]
    with pytest.raises(PlanError) as caught:
        found.require_possible()
    assert str(caught.value).count("Fix:") == 4


def test_no_target_is_a_problem() -> None:
    """A recipe without targets says how to give one."""
    assert "targets: the recipe names no target | give --target NAME" in told(
        planned(WHOLE)
    )


@pytest.mark.parametrize(
    ("without", "names", "said"),
    [
        (
            ("onnxruntime",),
            ("cpu-onnx",),
            "onnxruntime, needed by cpu-onnx (torch_to_onnx), cpu-onnx (lower_onnx)",
        ),
        (
            ("torch_pruning",),
            ("cpu-onnx",),
            "torch_pruning, needed by prune | pip install 'edgekit[prune]'",
        ),
        (("sklearn",), ("cpu-onnx",), "sklearn, needed by digits"),
        (
            ("tensorrt_rtx", "tensorrt"),
            ("rtx-tensorrt",),
            "tensorrt_rtx or tensorrt, needed by rtx-tensorrt (onnx_to_tensorrt)",
        ),
        (
            ("ai_edge_quantizer",),
            ("mobile-tflite",),
            "ai_edge_quantizer, needed by mobile-tflite (quantize_tflite), "
            "mobile-tflite (calibrate_tflite) | pip install 'edgekit[tflite]'",
        ),
    ],
)
def test_every_missing_package_is_told_once_with_its_command(
    without: tuple[str, ...], names: tuple[str, ...], said: str
) -> None:
    """One line for each package, with all that need it and the command that installs it."""
    found = planned(WHOLE, *names, without=without)
    assert said in told(found)
    assert len(found.problems) == 1


@pytest.mark.parametrize("spare", ["tensorrt_rtx", "tensorrt"])
def test_one_of_two_tensorrts_is_enough(spare: str) -> None:
    """TensorRT-RTX or classic TensorRT will do."""
    assert planned(WHOLE, "rtx-tensorrt", without=(spare,)).problems == ()


def test_a_recipe_that_does_not_quantize_needs_no_quantizer() -> None:
    """Nothing is asked for that the recipe does not use."""
    assert (
        planned(
            {**WHOLE, "compress": ["train"]},
            "mobile-tflite",
            without=("torch_pruning", "ai_edge_quantizer", "onnx"),
        ).problems
        == ()
    )


def test_a_users_own_files_are_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network and a task of the user's own are planned without being imported."""
    (tmp_path / "net.py").write_text(
        "raise SystemExit('the plan must not import this')\n"
    )
    monkeypatch.chdir(tmp_path)
    assert (
        planned(
            {**WHOLE, "model": "net.py:model", "task": "net.py:task"},
            "cpu-onnx",
        ).problems
        == ()
    )


def test_a_plan_is_the_same_each_time() -> None:
    """Planning is pure."""
    assert planned(WHOLE, "cpu-onnx", "mobile-tflite") == planned(
        WHOLE, "cpu-onnx", "mobile-tflite"
    )


def test_every_planned_parameter_is_one_that_the_step_takes() -> None:
    """The plan's parameters are fields of the step's class, so a plan never fails for a
    wrong name.
    """
    names = (
        "cpu-onnx",
        "mobile-tflite",
        "coral-edgetpu",
        "rtx-tensorrt",
        "rtx40-tensorrt",
        "rtx-turing",
        "jetson-thor",
        "android-ort",
    )
    found = plan(
        recipes.load(catalog.find("recipes", "digits")),
        [shipped(name) for name in names],
    )
    steps = [
        *found.teacher,
        *found.shared,
        *(
            step
            for row in found.targets
            for candidate in row.candidates
            for step in candidate.steps
        ),
    ]
    for step in steps:
        fields = registry.STEPS.load(step.step).__dataclass_fields__
        assert set(step.parameters) <= set(fields), step.step


def test_wrong_targets_are_told_together() -> None:
    """Two wrong names are one error."""

    def find(name: str) -> Target:
        return targets.load(catalog.find("targets", name))

    recipe = Recipe.model_validate(
        {"targets": ["cpu-onx", "cpu-onnx", "mobile"]}
    )
    with pytest.raises(PlanError) as caught:
        targets_of(recipe, find)
    assert "'cpu-onx'. Did you mean 'cpu-onnx'" in str(caught.value)
    assert "'mobile'" in str(caught.value)
    with pytest.raises(TargetError):
        find("cpu-onx")


def test_what_is_built_on_a_device_needs_no_tensorrt_here() -> None:
    """A Jetson's and a data centre's recipes are written where no TensorRT is installed;
    the engines of a graphics card are not.
    """
    assert (
        planned(
            WHOLE,
            "jetson-agx-orin",
            "datacenter-tensorrt",
            without=("tensorrt_rtx", "tensorrt"),
        ).problems
        == ()
    )
    assert (
        planned(
            WHOLE, "rtx-turing", without=("tensorrt_rtx", "tensorrt")
        ).problems
        != ()
    )


def test_the_reference_of_a_gpu_without_float_products_stays_an_onnx_file() -> (
    None
):
    """Turing cannot have the float engine, but what fp16 is compared with is needed all the
    same.
    """
    (row,) = planned(WHOLE, "rtx-turing").targets
    assert [step.step for step in row.reference.steps] == ["torch_to_onnx"]
    assert [candidate.scheme for candidate in row.candidates] == ["fp16"]
    (row,) = planned(WHOLE, "rtx-tensorrt").targets
    assert row.reference.steps[-1].step == "onnx_to_tensorrt"


def test_a_host_that_is_not_ready_is_a_problem_of_its_targets() -> None:
    """Each host is asked once; what is known against it names the targets that are checked
    there, and a name that no host has is told too.
    """
    asked: list[str] = []

    def known(name: str) -> tuple[str, str] | None:
        asked.append(name)
        if name == "nope":
            raise HostError(
                "No host is called 'nope'.", fix="'edgekit hosts' lists them"
            )
        return (
            ("the host arm is not set up", "edgekit hosts setup arm")
            if name == "arm"
            else None
        )

    hosts = {"a": "arm", "b": "local", "c": "arm", "d": "nope"}
    chosen = [
        shipped("mobile-tflite").model_copy(update={"name": name, "host": host})
        for name, host in hosts.items()
    ]
    recipe = Recipe.model_validate(
        {
            "model": "zoo:cnn",
            "task": "digits",
            "compress": ["train", {"quantize": {}}],
        }
    )
    assert plan(recipe, chosen, lambda module: True).problems == ()
    problems = plan(
        recipe, chosen, lambda module: True, host_problem=known
    ).problems
    assert [
        (problem.where, problem.what, problem.fix) for problem in problems
    ] == [
        ("a, c", "the host arm is not set up", "edgekit hosts setup arm"),
        ("d", "No host is called 'nope'", "'edgekit hosts' lists them"),
    ]
    assert asked == ["arm", "local", "nope"]
    also = [
        shipped("mobile-tflite").model_copy(update={"also_on": ("arm", "nope")})
    ]
    (problem,) = plan(
        recipe, also, lambda module: True, host_problem=known
    ).problems
    assert (problem.where, problem.what) == (
        "mobile-tflite: also_on",
        "No host is called 'nope'",
    ), "a host that is not set up yet is no problem here"
