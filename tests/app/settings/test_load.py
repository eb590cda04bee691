import pytest

from tokenworks.app.logs import masked
from tokenworks.app.process.starting import check_exposure
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid


def test_options_win_over_variables_over_the_file(tmp_path):
    (tmp_path / "tokenworks.toml").write_text('workers = 2\nlog_level = "debug"\nlisten = "127.0.0.1:1"\n')
    env = {
        "TOKENWORKS_LISTEN": "127.0.0.1:2",
        "TOKENWORKS_WORKERS": "3",
        "TOKENWORKS_UPSTREAM_X": "secret",
        "HOME": "/",
    }
    effective = load_settings({"data_dir": str(tmp_path), "workers": 4}, env)
    assert (effective.settings.workers, effective.settings.listen, effective.settings.log_level) == (
        4,
        "127.0.0.1:2",
        "debug",
    )
    assert effective.origins["workers"] == "option"
    assert effective.origins["listen"] == "variable"
    assert effective.origins["log_level"].startswith("file ")
    assert effective.origins["drain_s"] == "default"


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"TOKENWORKS_WORKER": "1"}, "TOKENWORKS_WORKER .* is not a setting"),
        ({"TOKENWORKS_WORKERS": "0"}, "workers"),
        ({"TOKENWORKS_LISTEN": "8080"}, "HOST:PORT"),
        ({"TOKENWORKS_CONFIG": "/nowhere.toml"}, "not there"),
        ({"TOKENWORKS_TLS_KEY": "/key.pem"}, "go together"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(tmp_path, env, reason):
    with pytest.raises(Invalid, match=reason):
        load_settings({"data_dir": str(tmp_path)}, env)


@pytest.mark.parametrize("text", ["colour = 1", "workers = ", 'workers = "many"'])
def test_a_faulty_file_is_refused(tmp_path, text):
    (tmp_path / "tokenworks.toml").write_text(text)
    with pytest.raises(Invalid):
        load_settings({"data_dir": str(tmp_path)}, {})


def test_plain_http_stays_on_loopback(tmp_path):
    for listen in ("0.0.0.0:80", "192.0.2.1:80", "example.org:80"):
        with pytest.raises(Invalid, match="plain HTTP"):
            check_exposure(load_settings({"data_dir": str(tmp_path), "listen": listen}, {}).settings)
    for listen in ("127.0.0.1:80", "[::1]:80", "localhost:80"):
        check_exposure(load_settings({"data_dir": str(tmp_path), "listen": listen}, {}).settings)


def test_logs_hold_no_key_and_no_whole_phone_number():
    key = "twk_dev_" + "a1" * 18
    text = masked(f"Bearer {key} failed for +8613800000001 and x-api-key: sk-123")
    assert key not in text
    assert "13800000001" not in text
    assert "sk-123" not in text
    assert "+861****0001" in text


def test_a_setting_that_begins_as_a_credential_does_is_a_setting():
    variables = {"TOKENWORKS_UPSTREAM_IDLE_TIMEOUT_S": "7", "TOKENWORKS_UPSTREAM_DEEPSEEK": "sk-x"}
    assert load_settings({}, variables).settings.upstream_idle_timeout_s == 7
