FROM scratch
LABEL nothing=else
