FROM base
ENV A=expanded
COPY <<EOT /plain
$A and ${A:-b} and \$A
  indented
EOT
COPY <<"EOT" /quoted
$A and \$A
EOT
COPY <<-EOT /dash
	tab $A
		two
EOT
COPY <<one <<two a.txt /dir/
first
one
second $A
two
COPY --chmod=0640 --chown=app:staff <<f.conf /etc/conf/
x = "$A"
f.conf
ADD <<EOT /added
added
EOT
COPY <<EOT /opt/link/through
through a link
EOT
COPY <<EOT /empty
EOT
