"""Which kind of thing each class of Tiny ImageNet is: our own grouping by meaning, made without looking at any net.

Classes go by their WordNet identifiers; a comment says what they are. A birdhouse, a brass plaque, a spider web, a
teddy bear and a comic book are alone in their kinds.
"""

_KINDS = {
    "fish and amphibians": "n01443537 n01629819 n01641577 n01644900",  # goldfish, salamander, two frogs
    "reptiles": "n01698640 n01742172",  # alligator, boa
    "arthropods": """
        n01768244 n01770393 n01774384 n01774750 n01784675 n02165456 n02190166 n02206856 n02226429 n02231487 n02233338
        n02236044 n02268443 n02279972 n02281406
    """,  # trilobite, scorpion, two spiders, centipede, insects
    "birds": "n01855672 n02002724 n02056570 n02058221",  # goose, stork, penguin, albatross
    "sea animals": """
        n01910747 n01917289 n01944390 n01945685 n01950731 n01983481 n01984695 n02074367 n02321529
    """,  # jellyfish, brain coral, snail, slugs, lobsters, dugong, sea cucumber
    "dogs": "n02085620 n02094433 n02099601 n02099712 n02106662 n02113799",
    "cats": "n02123045 n02123394 n02124075 n02125311 n02129165",  # with cougar and lion
    "hoofed animals": "n02395406 n02403003 n02410509 n02415577 n02423022 n02437312 n02504458",  # hog to elephant
    "other mammals": "n01882714 n02132136 n02364673 n02480495 n02481823 n02486410 n02509815",  # koala, bear, apes
    "clothes": """
        n02669723 n02730930 n02837789 n02883205 n02963159 n03026506 n03404251 n03424325 n03617480 n03763968 n03770439
        n03814639 n03980874 n04133789 n04254777 n04259630 n04356056 n04371430 n04532106 n04251144 n02769748
    """,  # gown to vestment, with gas mask, neck brace, sunglasses, snorkel and backpack
    "road and rail vehicles": """
        n02814533 n02917067 n03100240 n03393912 n03444034 n03599486 n03670208 n03796401 n03977966 n04146614 n04285008
        n04465501 n04487081 n03649909
    """,  # cars, buses, trains, rickshaw, tractor, lawn mower
    "boats": "n03447447 n03662601",  # gondola, lifeboat
    "buildings and bridges": """
        n02793495 n02814860 n03042490 n03160309 n03837869 n04311004 n04366367 n04417672 n04486054 n04532670 n04562935
        n02788148 n03930313 n03388043
    """,  # barn, lighthouse, dwelling, dam, obelisk, bridges, thatch, arch, tower, banister, fence, fountain
    "shops and rooms": "n02699494 n02791270 n02927161 n03089624",  # altar, barbershop, butcher's, confectionery
    "poles and signs": "n03355925 n03733131 n03891332 n03976657 n04149813 n03126707",  # flagpole to scoreboard, crane
    "furniture": "n02808440 n03014705 n03179701 n03201208 n03637318 n04070727 n04099969 n04265275",
    "vessels": """
        n02795169 n02815834 n02823428 n02909870 n03937543 n03983396 n04398044 n04560804 n07579787
    """,  # barrel, beaker, bottles, bucket, teapot, jug, plate
    "kitchen tools": "n03400231 n04596742 n04597913",  # frying pan, wok, spoon
    "devices": """
        n02977058 n02988304 n03085013 n03584254 n03706229 n03902125 n04074963 n04179913 n04328186 n02841315 n03544143
        n02666196 n04501370
    """,  # cash machine to sewing machine, binoculars, hourglass, abacus, turnstile
    "sports": "n02802426 n03255030 n04023962 n04118538 n04540053",  # balls, dumbbell, punching bag
    "music": "n03250847 n03838899 n03854065",  # drumstick, oboe, organ
    "hand tools": """
        n02906734 n03804744 n03970156 n03992509 n04067472 n04376876 n04507155 n04456115 n02948072 n02999410
    """,  # broom, nail, plunger, wheel, reel, syringe, umbrella, torch, candle, chain
    "weapons": "n02950826 n04008634",  # cannon, missile
    "fruit and vegetables": """
        n07715103 n07720875 n07734744 n07747607 n07749582 n07753592 n07768694 n12267677
    """,  # cauliflower, pepper, mushroom, orange, lemon, banana, pomegranate, acorn
    "dishes": "n07583066 n07614500 n07615774 n07695742 n07711569 n07871810 n07873807 n07875152 n07920052",
    "landscapes": "n09193705 n09246464 n09256479 n09332890 n09428293",  # alp, cliff, reef, lake, sea shore
}
ALONE = ["n02843684", "n02892201", "n04275548", "n04399382", "n06596364"]
TINY_IMAGENET = {wnid: wnid for wnid in ALONE} | {
    wnid: kind for kind, wnids in _KINDS.items() for wnid in wnids.split()
}
