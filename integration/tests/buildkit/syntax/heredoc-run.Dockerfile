FROM base
ARG X=arg
ENV Y=env
RUN <<EOT
echo "$X $Y" > /plain
cat > /inner <<INNER
$Y
INNER
EOT
RUN <<'EOT'
echo "$Y" '$Y' > /quoted
EOT
RUN <<-EOT
	echo tabs > /tabs
		echo two > /two
EOT
RUN <<EOT sh -e
echo to-shell > /shell
EOT
RUN <<EOT
#!/bin/cat

a script for cat, $Y
EOT
RUN <<EOT
#!/bin/sh -e
echo "$0" | sed 's/[0-9]//g' > /script
echo "$Y" >> /script
EOT
RUN cat <<A >/a && cat <<B >/b
of a $Y
A
of b
B
RUN 3<<THREE cat <&3 >/three
third $Y
THREE
SHELL ["/bin/sh", "-ec"]
RUN <<EOT
echo shell > /strict
EOT
