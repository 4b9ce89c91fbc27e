"""`measure` of sequences of tokens."""

from entropix.studies.tokens.data import TokenData as TokenData
from entropix.studies.tokens.data import split_tokens as split_tokens
from entropix.studies.tokens.measurement import TOKEN_SCHEMA as TOKEN_SCHEMA
from entropix.studies.tokens.pretrained import TokenModelStudy as TokenModelStudy
from entropix.studies.tokens.pretrained import prepare_token_model as prepare_token_model
from entropix.studies.tokens.study import TokenStudy as TokenStudy
from entropix.studies.tokens.study import prepare_tokens as prepare_tokens
from entropix.studies.tokens.study import process_word as process_word
from entropix.studies.tokens.study import refuse_numbers as refuse_numbers
from entropix.studies.tokens.study import token_attributes as token_attributes
from entropix.studies.tokens.study import token_network as token_network
from entropix.studies.tokens.study import token_process as token_process
