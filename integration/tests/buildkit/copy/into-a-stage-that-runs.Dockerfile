FROM base
COPY run.sh /usr/bin/run
COPY --chmod=0755 <<EOT /usr/bin/inline
#!/bin/sh
echo "\$0" > /inline-ran
EOT
RUN run && inline
COPY . .
RUN rm -r /dir && mkdir /dir && cp a.txt dir/again
COPY dir/f1 dir/f1
