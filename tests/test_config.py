import pytest
from hypothesis import given
from hypothesis import strategies as st

from gim_audio.config import Config, load
from gim_audio.errors import ConfigError


def test_defaults_are_the_published_ones():
    config = load()
    assert config == Config()
    assert config.training.learning_rate == 2e-4
    assert config.data.crop == 20480
    assert config.objective.negatives.kind == "batch"


def test_file_and_overrides_meet_in_one_schema(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("training: {steps: 7}\nmodel: {channels: [1, 2, 3, 4, 5]}\n")
    config = load(
        path,
        [
            "training.batch=3",
            "objective.negatives={kind: pool, number: 64}",
            "training.learning_rate=1e-3",
        ],
    )
    assert (config.training.steps, config.training.batch, config.training.learning_rate) == (
        7,
        3,
        1e-3,
    )
    assert config.model.widths == (1, 2, 3, 4, 5)
    assert config.objective.negatives.number == 64


@given(
    channels=st.integers(1, 9) | st.tuples(*[st.integers(1, 9)] * 5),
    kind=st.sampled_from(["gru", "conv"]),
    seed=st.integers(0, 2**32 - 1),
    rate=st.floats(1e-8, 1),
    isolate_after=st.sets(st.integers(1, 5)).map(sorted),
)
def test_saved_configurations_come_back(
    tmp_path_factory, channels, kind, seed, rate, isolate_after
):
    config = Config.model_validate(
        {
            "model": {
                "channels": channels,
                "context": {"kind": kind},
                "isolate_after": isolate_after,
            },
            "training": {"seed": seed, "learning_rate": rate},
        }
    )
    path = tmp_path_factory.mktemp("c") / "config.yaml"
    path.write_text(config.to_yaml())
    assert load(path) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", "training.stepz: unknown key"),
        ("training.steps=many", "training.steps: .*'many'"),
        ("training.steps=0", "training.steps: .*greater than or equal to 1"),
        (
            "training.precision=fp8",
            "training.precision: .*'fp32', 'tf32', 'bf16' or 'bf16-emulated'",
        ),
        ("model.strides=[5,4]", "strides has 2 values for 5 kernels"),
        ("model.strides=[50,4,2,2,2]", "convolution 1: kernel 10 must be at least the stride"),
        ("model.isolate_after=[2,1]", "isolate_after must rise"),
        ("model.isolate_after=[6]", "from 1 to 5"),
        ("model.context.kind=none", "from 1 to 4"),
        ("data.crop=1500", "gives 10 frames, objective.steps_ahead needs at least 13"),
        ("objective.window=12", "window .12. must be more than steps_ahead"),
        ("steps", "not of the form key=value"),
        ("training.steps.x=1", "unknown key|not a section|valid integer"),
        ("training.seed=[", "is not YAML"),
        ("model.deviation=0", "greater than 0"),
        ("training.learning_rate=.nan", "finite"),
        ("training.steps=true", "training.steps: true is not a number"),
        ("training.learning_rate=yes", "training.learning_rate: true is not a number"),
        ("training.seed=99999999999", "training.seed: .*less than"),
        ("objective.negatives={kind: pool, number: 1025}", "a pool of 1025 from 1024 frames"),
    ],
)
def test_bad_settings_are_one_line(override, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(None, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("just words", "expected sections"),
        ("\xff", "line 1: not UTF-8 text"),
        ("", None),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode("latin-1"))
    if message is None:
        assert load(path) == Config()
        return
    with pytest.raises(ConfigError, match=message):
        load(path)
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.schedule=serial",
            "training.schedule: Input should be 'joint' or 'sequential' (given 'serial')",
        ),
        ("training.schedule=[{modules: [2], cach: true}]", "training.schedule.0.cach: unknown key"),
        ("model.added=[{kernel: 3, strid: 2}]", "model.added.0.strid: unknown key"),
    ],
)
def test_a_value_of_several_kinds_is_explained_once(override, message):
    with pytest.raises(ConfigError) as error:
        load(None, [override])
    assert message in str(error.value)
    assert "function-" not in str(error.value)
    assert "Literal" not in str(error.value)
