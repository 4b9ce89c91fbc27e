"""`measure` of sequences of tokens."""

from entropix.studies.tokens.measurement import TOKEN_SCHEMA as TOKEN_SCHEMA
from entropix.studies.tokens.pretrained import TokenModelStudy as TokenModelStudy
from entropix.studies.tokens.pretrained import prepare_token_model as prepare_token_model
from entropix.studies.tokens.study import TokenStudy as TokenStudy
from entropix.studies.tokens.study import prepare_tokens as prepare_tokens
