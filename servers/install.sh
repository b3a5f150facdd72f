#!/bin/sh
# Installs RabbitMQ's programs on Debian and Ubuntu, for the tests that start private servers from them.
# PostgreSQL and NATS come from PyPI with `make setup`. No system-wide RabbitMQ is started or needed.
set -eu

if command -v rabbitmq-server > /dev/null && command -v epmd > /dev/null; then
    exit 0
fi
if ! command -v apt-get > /dev/null; then
    echo "RabbitMQ is not installed, and this machine has no apt-get: install RabbitMQ 3.10 or newer by its own means." >&2
    exit 1
fi

as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo
echo "Installing RabbitMQ with: $as_root apt-get install rabbitmq-server (it is not started, nor at the next boot)"

# Debian starts a service when it installs it, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy > /dev/null
    $as_root chmod +x $policy
    trap '$as_root rm -f $policy' EXIT
fi

$as_root apt-get update --quiet=2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends rabbitmq-server
if command -v systemctl > /dev/null; then
    $as_root systemctl disable --quiet rabbitmq-server 2> /dev/null || true
fi
