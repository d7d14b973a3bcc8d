FROM base
RUN --network=host test -d /sys/class/net/lo && touch /there
#: allow network.host
