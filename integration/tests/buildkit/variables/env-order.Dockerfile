FROM base
ENV abc=hello
ENV abc=bye def=$abc
ENV ghi=$abc
ENV B=2 A=1 PATH=/first:$PATH
ENV A=3 C="x y" D='x y' E=x\ y F=
ENV abc $def again
RUN env | grep -v -E "^(OTEL_.*|TRACEPARENT|HOSTNAME|SHLVL|PWD|OLDPWD|_)=" | sort > /env
