#!/bin/sh
# Runs once, in the empty database of a new cluster: the three roles, and what each may do with the tables to come.
#   attune_owner   makes and migrates tables            (service migrate)
#   attune_web     reads and writes rows                (service web)
#   attune_worker  reads and writes rows, but no keys   (services worker and serve; core/access/grants.py)
set -eu

owner_password=$(cat "$ATTUNE_OWNER_PASSWORD_FILE")
web_password=$(cat "$ATTUNE_WEB_PASSWORD_FILE")
worker_password=$(cat "$ATTUNE_WORKER_PASSWORD_FILE")

# in the here-document and not as arguments: arguments can be read by every process of the machine
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
BEGIN;
CREATE ROLE attune_owner LOGIN PASSWORD '$owner_password';
CREATE ROLE attune_web LOGIN PASSWORD '$web_password';
CREATE ROLE attune_worker LOGIN PASSWORD '$worker_password';

REVOKE ALL ON DATABASE "$POSTGRES_DB" FROM PUBLIC;
GRANT CONNECT ON DATABASE "$POSTGRES_DB" TO attune_owner, attune_web, attune_worker;

REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO attune_owner;
GRANT USAGE ON SCHEMA public TO attune_web, attune_worker;

ALTER DEFAULT PRIVILEGES FOR ROLE attune_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO attune_web, attune_worker;
ALTER DEFAULT PRIVILEGES FOR ROLE attune_owner IN SCHEMA public
    GRANT USAGE, SELECT ON SEQUENCES TO attune_web, attune_worker;
COMMIT;
SQL
