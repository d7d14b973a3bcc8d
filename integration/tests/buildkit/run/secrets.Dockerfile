FROM base
RUN --mount=type=secret,id=token stat -c '%a %u:%g' /run/secrets/token > /1 && wc -c < /run/secrets/token >> /1
RUN --mount=type=secret,id=token,target=/etc/deep/token,mode=0440,uid=7,gid=50 stat -c '%a %u:%g' /etc/deep/token > /2
RUN --mount=type=secret,id=token,env=TOKEN test "$TOKEN" = "a secret" && echo yes > /3; ls /run/secrets > /3l 2>&1 || true
RUN --mount=type=secret,id=token,env=TOKEN,target=/tok test "$(cat /tok)" = "$TOKEN" && echo yes > /4
RUN --mount=type=secret,id=missing ls -A /run/secrets > /5 2>/dev/null; true
RUN --mount=type=secret,target=token cat token | wc -c > /6
RUN --mount=type=secret,id=token,dst=/etc/passwd grep -c secret /etc/passwd > /7
USER app
RUN --mount=type=secret,id=token,uid=1000 cat /run/secrets/token | wc -c > /tmp/8
#: secret token=a secret
