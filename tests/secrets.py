"""A corpus of secrets that no record may hold, and of innocents that every record must keep. None of them is real.

Each secret is put together here, so that no scanner of this repository takes one for a leak.
"""

from __future__ import annotations

_LONG = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0"
_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEiLCJhZG1pbiI6dHJ1ZX0."

TOKENS = {
    "AWS key id": "AK" + "IAQ7EXAMPLE4XMPLW2",
    "AWS session key id": "AS" + "IAQ7EXAMPLE4XMPLW2",
    "GitHub": "gh" + "p_" + _LONG[:36],
    "GitHub, fine-grained": "github" + "_pat_" + _LONG + "_" + _LONG,
    "GitLab": "gl" + "pat-" + _LONG[:20],
    "Hugging Face": "h" + "f_" + "AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "OpenAI": "s" + "k-proj-" + _LONG,
    "Anthropic": "s" + "k-ant-api03-" + _LONG,
    "Slack": "xox" + "b-123456789012-" + _LONG[:24],
    "npm": "np" + "m_" + _LONG[:36],
    "PyPI": "pyp" + "i-AgEIcHlwaS5vcmc" + _LONG,
    "JWT": _JWT + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "Google": "AI" + "za" + _LONG[:35],
    "Stripe": "s" + "k_live_" + _LONG[:24],
    "SendGrid": "S" + "G." + _LONG[:22] + "." + _LONG,
}
"""Known by their form, wherever they stand."""

PEM = "\n".join(
    ("-----BEGIN RSA PRIVATE" + " KEY-----", "MIIEowIBAAKCAQEAxpemBodySecret0001", "-----END RSA PRIVATE" + " KEY-----")
)

# What is written -> the part of it that must not be recorded.
TEXTS = {
    "--password hunter2": "hunter2",
    "--db-password=hunter2": "hunter2",
    "--token=c0rrecthorse": "c0rrecthorse",
    "PGPASSWORD=swordfish psql -h db": "swordfish",
    "export API_KEY=q7w8e9r0t1": "q7w8e9r0t1",
    "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567": "0123456789abcdef" * 2,
    "aws_secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
    'password = "open sesame"': "open sesame",
    '{"client_secret": "tr0ub4dor"}': "tr0ub4dor",
    "password: hunter2x": "hunter2x",
    "https://ada:s3cret@example.org/repo.git": "s3cret",
    "https://only-a-token-1@example.org/repo.git": "only-a-token-1",
    "postgresql://ada:p@ss/w0rd@db.example.org:5432/x": "ss/w0rd",
    "redis://:r3dis@cache:6379/0": "r3dis",
    "mongodb+srv://ada:m0ngo@cluster.example.org/?w=majority": "m0ngo",
    "Server=db;User Id=sa;Password=P@ss1;Encrypt=yes": "P@ss1",
    "AccountName=x;AccountKey=bm90LWEta2V5LWJ1dC1sb25n==;": "bm90LWEta2V5LWJ1dC1sb25n",
    "Authorization: Basic YWRhOnMzY3JldA==": "YWRhOnMzY3JldA==",
    "Authorization: Bearer 0pAque-t0ken": "0pAque-t0ken",
    "sent Bearer abcdef0123456789xyz to it": "abcdef0123456789xyz",
    "X-Api-Key: 0pAque-k3y": "0pAque-k3y",
    "https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=f00dbabe99": "f00dbabe99",
    "https://x.blob.core.windows.net/c/b?sv=2024&sig=Zm9vYmFy%3D": "Zm9vYmFy",
    "https://storage.googleapis.com/b/o?X-Goog-Signature=deadbeef77": "deadbeef77",
    "https://api.example.org/v1?api_key=q7w8e9r0": "q7w8e9r0",
    "machine example.org login ada password n3trc": "n3trc",
    "curl -u ada:curls3cret https://example.org": "curls3cret",
    "hooks.slack.com/services/T0AAAAAAA/B0AAAAAAA/" + _LONG[:24]: _LONG[:24],
    PEM: "MIIEowIBAAKCAQEAxpemBodySecret0001",
    **{f"a {kind} token {value} in a sentence": value for kind, value in TOKENS.items()},
}

COMMANDS = [
    (["train.py", "--password", "hunter2", "--lr", "0.1"], "hunter2"),
    (["train.py", "--hub-token", "plainword"], "plainword"),
    (["train.py", "db.password=plainword"], "plainword"),
    (["train.py", "+wandb.api_key=plainword"], "plainword"),
    (["env", "PGPASSWORD=plainword", "psql"], "plainword"),
    (["curl", "-u", "ada:plainword", "https://example.org"], "plainword"),
    (["curl", "-H", "Authorization: token plainword", "https://example.org"], "plainword"),
    (["mysqldump", "-uroot", "-pplainword", "db"], "plainword"),
    (["sshpass", "-p", "plainword", "ssh", "host"], "plainword"),
    (["bash", "-c", "PGPASSWORD=plainword psql -h db"], "plainword"),
    (["deploy", "--key", PEM], "MIIEowIBAAKCAQEAxpemBodySecret0001"),
]

INNOCENT_TEXTS = [
    "",
    "the quick brown fox",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "0190b5a2-7c1e-7f3a-9a55-53f2abd12345",
    "lr=0.1 batch_size=32 weight_decay=1e-4",
    "max_tokens=512 num_tokens=7 --max-tokens 512",
    "eos_token=</s> pad_token=<pad>",
    "tokenizer=bert-base-uncased",
    "--token-file /run/tokens/a --key-column id",
    "primary_key=id sort_key=date",
    "sorted(rows, key=lambda row: row.id)",
    "password = getpass()",
    "token = tokenizer.next_token",
    "SyntaxError: unexpected token: 'foo'",
    "KeyError: 'passenger_count'",
    "the password is wrong",
    "Basic statistics of the data set",
    "ssh://git@github.com/team/repo.git",
    "git@github.com:team/repo.git",
    "http://localhost:5000/users/a@b",
    "https://example.org/search?q=sheep&page=2",
    "docker run -u 1000:1000 image",
    "s3://bucket/data/part-0001.parquet",
    "scikit-learn==1.5.0 sk-video task-force-one-two-three",
    "data/keys/monkeys-and-donkeys.csv",
    "passes=3 n_pass=2 compass=north",
    "2026-11-24T23:05:00+00:00",
]

INNOCENT_PARAMS = {
    "lr": 1e-3,
    "max_tokens": 512,
    "eos_token": "</s>",
    "pad_token": "[PAD]",
    "bos_token": "begin",
    "token_file": "/run/token",
    "tokenizer": "bert-base-uncased",
    "key": "column",
    "primary_key": "id",
    "passes": 3,
    "commit": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "password": None,
    "use_token": True,
    "seed": 20261124,
}
