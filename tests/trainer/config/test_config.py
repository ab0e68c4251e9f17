"""The configuration: types, overrides, and errors that name the way out."""

import typing

import pytest
import tomllib

from trainer import config as configuration
from trainer.config import ConfigError
from trainer.stages import table


def test_overrides_win_and_are_typed(values, write_toml):
    path = write_toml(values)
    config = configuration.load(
        path, ["--optimizer.lr", "2e-4", "--data.cache=true", "--model.channel_mult", "1,2,2,2"]
    )
    assert config.optimizer.lr == 2e-4
    assert config.data.cache is True
    assert config.model.channel_mult == (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        (["--optimizer.learning_rat", "1"], "Unknown key in \\[optimizer\\] 'learning_rat'"),
        (["--optimizer.bacth", "1"], "did you mean 'batch'"),
        (["--optimiser.lr", "1"], "did you mean 'optimizer'"),
        (["--run.stage", "v3"], "known: v1, v1_5, vae, encoder"),
        (["--optimizer.batch", "many"], "optimizer.batch = 'many' is not a int"),
        (["--data.size", "100"], "nearest is 128"),
        (["--loss.reference_drop", "1.5"], "between 0 and 1"),
        (["--data.deform", "0.5"], 'data.reference = "self"'),
        (["--data.deform", "2"], "between 0 and 1"),
        (["--data.reference", "listed"], "name the index files in data.index"),
        (["--data.cache", "true", "--data.bucket_step", "64", "--data.bucket_order", "released"], "data.cache keeps"),
        (["--report.sample_every", "1", "--report.sample_count", "0"], "report.sample_count must be at least 1"),
        (["--report.validate_entanglement", "true", "--report.validate_count", "1"], "validate_count to 2"),
        (["--report.validate_entanglement", "true", "--run.stage", "vae"], "stages v1, v1_5 and xl"),
        (["--optimizer.lr"], "needs a value"),
        (["lr", "3"], "write --section.key value"),
        (["--model.encoder", ""], "needs a reference encoder"),
        (["--system.deepspeed", "zero2.json"], "optimizer.ema = 0"),
    ],
)
def test_mistakes_name_the_way_out(values, write_toml, override, hint):
    with pytest.raises(ConfigError, match=hint):
        table.load(write_toml(values), override)


def test_missing_file_lists_the_presets():
    with pytest.raises(ConfigError, match="demo-v1"):
        configuration.load("no-such-preset")


@pytest.mark.parametrize("preset", sorted(p.stem for p in configuration.PRESETS.glob("*.toml")))
def test_every_preset_is_valid(preset):
    assert table.load(preset).run.steps > 0


def test_resolved_config_builds_itself_again(values):
    config = configuration.build(values)
    assert configuration.build(config.to_dict()) == config


def test_held_out_pictures_do_not_become_their_own_references(values):
    """Regression: without an index a listed reference was silently the picture itself."""
    values["data"] |= {"reference": "listed", "index": ["index"], "holdout": "elsewhere"}
    held_out = configuration.build(values).data.held_out()
    assert (held_out.folder, held_out.reference, held_out.index) == ("elsewhere", "group", ())


def test_every_stage_has_its_row_and_every_option_a_stage_that_has_it():
    names = typing.get_args(typing.get_type_hints(configuration.RunSettings)["stage"])
    assert set(names) == table.TABLE.keys()
    assert set().union(*(row.options for row in table.TABLE.values())) == table.OPTIONS.keys()


@pytest.mark.parametrize("key", sorted(table.OPTIONS))
def test_an_option_is_off_where_nobody_asks_for_it(values, key):
    """Else every other stage would refuse the default."""
    section, _, name = key.partition(".")
    off = tomllib.loads(f"value = {table.OPTIONS[key].off}")["value"]
    default = getattr(getattr(configuration.build({"data": values["data"]}), section), name)
    assert default == (tuple(off) if isinstance(off, list) else off)
