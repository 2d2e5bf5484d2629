#!/bin/sh
# Starts the Redis of docker-compose.yml, whose command line follows, with a user for each role.
# api and worker may do what README lists as the least, with the keys of this Sluice alone, and ask
# how Redis syncs its file; default may do everything, and is the operator's.
# Passwords are made at the first start, and nobody has to know them: each lies in a folder of its
# own, of which a role mounts that of its user. To change one, remove its file and start Redis again.
set -eu
users=${REDIS_USERS:-/run/users}
prefix=${SLUICE_REDIS__PREFIX:-sluice}

# password USER MODE makes a password where there is none. The processes that read it are not this one's user.
password() {
  mkdir -p "$users/$1"
  [ -s "$users/$1/password" ] && return
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$users/$1/new"
  chmod "$2" "$users/$1/new"
  mv "$users/$1/new" "$users/$1/password"
}
password default 0400
password api 0444
password worker 0444

# user NAME RULES... is a line of the list of users, which has hashes of passwords alone.
user() {
  name=$1
  shift
  echo "user $name on #$(tr -d '\r\n' <"$users/$name/password" | sha256sum | cut -d ' ' -f 1) $*"
}
role="~$prefix:* ~asynq:* &$prefix:* &asynq:* +@read +@write +@pubsub +@transaction +@connection +eval +evalsha +time +ping +wait -@dangerous +info +config|get"
{
  user default '~*' '&*' +@all
  user api "$role"
  user worker "$role"
} >"$users/users.acl"
chmod 0444 "$users/users.acl"
exec docker-entrypoint.sh "$@" --aclfile "$users/users.acl"
