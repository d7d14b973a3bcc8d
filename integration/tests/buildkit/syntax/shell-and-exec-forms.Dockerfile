FROM base
RUN ["sh", "-c", "echo exec > /exec"]
RUN [ "sh", "-c", "echo \"$HOME\" > /home-of" ]
RUN ['sh', '-c', 'true'] || echo shell > /shell
RUN [ -d /opt ] && echo test > /test
RUN ["/bin/sh", "-c", "echo \u0061 > /unicode"]
CMD ["a", "b\tc", "<&>"]
ENTRYPOINT echo "$PATH" <&>
