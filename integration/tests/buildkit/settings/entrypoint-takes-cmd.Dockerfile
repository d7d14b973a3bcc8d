FROM configured
ENTRYPOINT ["new"]
