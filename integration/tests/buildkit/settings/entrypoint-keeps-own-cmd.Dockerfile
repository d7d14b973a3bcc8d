FROM configured
CMD ["own"]
ENTRYPOINT new shell
