# An image that serves a net over HTTP; docs/containers.md says how to build and run it.
FROM python:3.12-slim AS build
WORKDIR /source
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir -c constraints.txt build hatchling
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m build --wheel --no-isolation --outdir /wheels

FROM python:3.12-slim
# An index of PyTorch's builds for the CPU alone, or the image has gigabytes of libraries for GPUs.
ARG PIP_EXTRA_INDEX_URL=
COPY --from=build /source/constraints.txt /wheels/*.whl /wheels/
RUN for wheel in /wheels/*.whl; do \
        python -m pip install --no-cache-dir -c /wheels/constraints.txt "${wheel}[serve]" || exit 1; \
    done \
    && rm -rf /wheels \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin steadylens
USER 10001:10001
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["steadylens"]
CMD ["serve", "fused-gtsrb", "--host", "0.0.0.0", "--port", "8000"]
