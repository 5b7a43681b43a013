#!/bin/sh
# Runs once, when the volume is new: MLflow and the ledger each get a role and a database of their
# own, so that who can write runs cannot write to the ledger; who serves may read it. No role of
# them is a superuser.
set -eu

run_sql() { # DATABASE; reads the commands
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --username "${POSTGRES_USER:-postgres}" --dbname "$1"
}

make_role() { # NAME FILE_WITH_PASSWORD
  [ -s "$2" ] || { echo "$2 is missing or empty: run 'make secrets'" >&2; exit 1; }
  # psql reads the password from its environment and quotes it: no process list shows it.
  ROLE=$1 ROLE_PASSWORD=$(cat "$2") run_sql postgres <<'SQL'
\getenv role ROLE
\getenv password ROLE_PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
SQL
}

make_role mlflow "${MLFLOW_PASSWORD_FILE:?is not set}"
make_role ledger "${LEDGER_PASSWORD_FILE:?is not set}"
make_role ledger_reader "${LEDGER_READER_PASSWORD_FILE:?is not set}"

run_sql postgres <<'SQL'
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE ledger OWNER ledger;
REVOKE CONNECT ON DATABASE mlflow, ledger FROM PUBLIC;
GRANT CONNECT ON DATABASE ledger TO ledger_reader;
SQL
run_sql ledger <<'SQL'
ALTER DEFAULT PRIVILEGES FOR ROLE ledger GRANT SELECT ON TABLES TO ledger_reader;
SQL
