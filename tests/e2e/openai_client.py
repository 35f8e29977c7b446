"""An openai client of a cluster's gateway."""

import openai

from cluster import PATIENCE_S


def client_of(pool, kind=openai.OpenAI, api_key="none", max_retries=0):
    return kind(base_url=f"http://{pool.client.http_address}/v1", api_key=api_key, timeout=PATIENCE_S,
                max_retries=max_retries)
