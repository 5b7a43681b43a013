#!/bin/sh
# Runs once, when the volume is new: MLflow and the ledger each get a role and a database of their
# own, so that who can write runs cannot write to the ledger. Neither role is a superuser.
set -eu

make_database() { # NAME FILE_WITH_PASSWORD
  [ -s "$2" ] || { echo "$2 is missing or empty: run 'make secrets'" >&2; exit 1; }
  # psql reads the password from its environment and quotes it: no process list shows it.
  ROLE=$1 ROLE_PASSWORD=$(cat "$2") psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --username "${POSTGRES_USER:-postgres}" --dbname "${POSTGRES_DB:-postgres}" <<'SQL'
\getenv role ROLE
\getenv password ROLE_PASSWORD
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"role" OWNER :"role";
REVOKE CONNECT ON DATABASE :"role" FROM PUBLIC;
SQL
}

make_database mlflow "${MLFLOW_PASSWORD_FILE:?is not set}"
make_database ledger "${LEDGER_PASSWORD_FILE:?is not set}"
