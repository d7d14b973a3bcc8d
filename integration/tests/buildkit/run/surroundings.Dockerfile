FROM base
ENV A=1
ARG B=2
WORKDIR /tmp
RUN env | sort | grep -v -E '^(OTEL_.*|TRACEPARENT|HOSTNAME|SHLVL|_|OLDPWD)=' > /env; pwd > /pwd; umask > /umask
RUN cat /proc/self/status | grep -E '^(NoNewPrivs|Groups)' > /status
RUN ls /dev | grep -v otel | sort > /dev-list; ls -ld /dev/shm /dev/pts /proc /sys | cut -c1-10 > /kinds
RUN ls -l /proc/self/fd | wc -l > /fds; tty > /tty || true
RUN test -w /sys && echo w > /sys-writable; ulimit -n > /files
RUN cat < /dev/stdin > /stdin; stat -c %a /dev/null > /null; hostname > /host
